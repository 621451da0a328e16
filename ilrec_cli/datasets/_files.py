"""Reading raw files of unknown quality: what every source needs to say where a file is wrong."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from ilrec_cli.errors import UserError


def is_gzip(path: Path) -> bool:
    """By content, not by name."""
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def read_json(path: Path) -> Any:
    """A whole JSON file; `UserError` names file, line and column of a fault."""
    try:
        with _open(path) as file:
            return json.loads(file.read().decode("utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not valid JSON at column {error.colno} ({error.msg})") from error
    except (UnicodeDecodeError, OSError, EOFError, zlib.error) as error:
        refuse_unreadable(path, error)


def first_object(path: Path) -> dict[str, Any] | None:
    """The JSON object on a file's first line, None if there is none: for detection by content."""
    try:
        with _open(path) as file:
            found = json.loads(file.readline(1 << 20))
    except (ValueError, OSError, EOFError, zlib.error):
        return None
    return found if isinstance(found, dict) else None


def explain_bad_line(path: Path, required: Mapping[str, type | tuple[type, ...]]) -> None:
    """Raise a `UserError` that names the first line that is no JSON object with the required fields of these types."""
    for number, line in lines(path):
        try:
            row = json.loads(line.decode("utf-8"))
        except ValueError as error:
            raise UserError(f"{path}:{number}: not valid JSON ({error}). Mend or delete the line") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number}: expected a JSON object, got {type(row).__name__}")
        for field, types in required.items():
            _check_field(path, number, row, field, types)


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(number, line) of every line that is not blank, from 1; plain or gzip."""
    try:
        with _open(path) as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line
    except (OSError, EOFError, zlib.error) as error:
        refuse_unreadable(path, error)


def refuse_unreadable(path: Path, error: Exception) -> NoReturn:
    """One line for a file that is missing, truncated or corrupt."""
    reason = str(error) or type(error).__name__
    if is_missing(error):
        raise UserError(f"{path}: no such file") from error
    if path.is_file() and is_gzip(path):
        reason = f"the gzip file is truncated or corrupt ({reason}); fetch it again"
    raise UserError(f"{path}: cannot be read: {reason}") from error


def is_missing(error: Exception) -> bool:
    return isinstance(error, FileNotFoundError)


def _check_field(path: Path, number: int, row: dict[str, Any], field: str, types: type | tuple[type, ...]) -> None:
    names = types.__name__ if isinstance(types, type) else " or ".join(kind.__name__ for kind in types)
    if row.get(field) is None:
        raise UserError(f"{path}:{number}: field '{field}' is missing, expected {names}")
    if not isinstance(row[field], types) or isinstance(row[field], bool):
        raise UserError(f"{path}:{number}: field '{field}' is {row[field]!r}, expected {names}")


def _open(path: Path) -> Any:
    return gzip.open(path, "rb") if is_gzip(path) else path.open("rb")
