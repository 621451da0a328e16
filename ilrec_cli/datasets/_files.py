"""Opening raw files of unknown quality: plain, gzip, bzip2 or zstandard, told apart by content and never by name."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NoReturn, cast

from ilrec_cli.errors import UserError

MAGIC = {"gzip": b"\x1f\x8b", "bzip2": b"BZh", "zstandard": b"\x28\xb5\x2f\xfd"}
BOM = b"\xef\xbb\xbf"
LONGEST_PEEK = 1 << 20


def compression(path: Path) -> str | None:
    """The name of a file's compression, None for plain bytes."""
    with path.open("rb") as file:
        head = file.read(4)
    return next((name for name, magic in MAGIC.items() if head.startswith(magic)), None)


def open_bytes(path: Path) -> IO[bytes]:
    """A binary stream of the decompressed content."""
    kind = compression(path)
    if kind == "gzip":
        return cast(IO[bytes], _gunzip()(path, "rb"))
    if kind == "bzip2":
        return bz2.open(path, "rb")
    if kind == "zstandard":
        from ilrec_cli.datasets._zstd import Reader

        return cast(IO[bytes], io.BufferedReader(Reader(path), 1 << 20))
    return path.open("rb")


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(number, line) of every line that is not blank, from 1."""
    try:
        with open_bytes(path) as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line
    except Exception as error:
        if not unreadable(error):
            raise
        refuse_unreadable(path, error)


def read_json(path: Path) -> Any:
    """A whole JSON file; `UserError` names file, line and column of a fault."""
    try:
        with open_bytes(path) as file:
            return json.loads(file.read().decode("utf-8-sig"), object_pairs_hook=_distinct)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not valid JSON at column {error.colno} ({error.msg})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from error
    except Exception as error:
        if not unreadable(error):
            raise
        refuse_unreadable(path, error)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; a key that is given twice would lose a value."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(
            f"the key '{next(key for place, key in enumerate(keys) if key in keys[:place])}' is given twice"
        )
    return found


def first_line(path: Path) -> str:
    """The beginning of a file's first line, '' where it cannot be read: for detection by content."""
    try:
        with open_bytes(path) as file:
            return file.readline(LONGEST_PEEK).decode("utf-8-sig").rstrip("\r\n")
    except Exception as error:
        if unreadable(error) or isinstance(error, UnicodeDecodeError):
            return ""
        raise


def first_object(path: Path) -> dict[str, Any] | None:
    """The JSON object on a file's first line, None if there is none."""
    try:
        found = json.loads(first_line(path))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def begins_with(path: Path, *words: str) -> bool:
    """Whether the first characters of a file hold all of these words."""
    try:
        with open_bytes(path) as file:
            head = file.read(1 << 16)
    except Exception as error:
        if unreadable(error):
            return False
        raise
    return all(word.encode() in head for word in words)


def files(folder: Path, *suffixes: str) -> list[Path]:
    """The folder's files whose name has one of these suffixes, compressed or not, sorted."""
    endings = tuple(suffix + end for suffix in suffixes for end in ("", ".gz", ".bz2", ".zst"))
    return sorted(path for path in folder.iterdir() if path.is_file() and path.name.lower().endswith(endings))


def stem(path: Path, suffix: str) -> str:
    """'Toys' for 'Toys.inter.gz' and '.inter'."""
    return path.name[: path.name.lower().rindex(suffix)]


def named(paths: list[Path], folder: Path, dataset: str, what: str) -> Path | None:
    """The single file, or the one whose name holds the dataset's; None if there is none."""
    fitting = [path for path in paths if dataset.lower() in path.name.lower()]
    if len(paths) == 1 or len(fitting) == 1:
        return (fitting or paths)[0]
    if paths:
        listed = ", ".join(path.name for path in paths)
        raise UserError(f"{folder}: several files hold {what}: {listed}. Choose one: -o {what}=FILE")
    return None


def unreadable(error: BaseException) -> bool:
    """Whether an exception means that a file is missing, truncated or corrupt."""
    return isinstance(error, OSError | EOFError | zlib.error) or type(error).__name__ in ("ZstdError", "IsalError")


def refuse_unreadable(path: Path, error: BaseException) -> NoReturn:
    """One line for a file that is missing, truncated or corrupt."""
    if isinstance(error, FileNotFoundError):
        raise UserError(f"{path}: no such file") from error
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    kind = compression(path) if path.is_file() else None
    if kind:
        reason = f"the {kind} file is truncated or corrupt ({reason}); fetch it again"
    raise UserError(f"{path}: cannot be read: {reason}") from error


def _gunzip() -> Any:
    """isal's reader where it is installed: the same bytes, two to three times as fast as zlib."""
    try:
        from isal import igzip
    except ImportError:
        return gzip.open
    return igzip.open
