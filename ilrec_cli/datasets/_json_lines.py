"""JSON lines to tables, block by block: polars where all is well, line by line where it is not.

polars names no line for a fault and has no way to skip one, so a block in which anything is wrong is read again with
`json.loads`, which finds the lines and says what is wrong with them.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl
from polars.exceptions import PolarsError

from ilrec_cli.datasets import _blocks, _kinds
from ilrec_cli.datasets._faults import Faults

FRACTION = r"^-?[0-9]+\.[0-9]"
Parse = Callable[[str], Any]


def tables(
    path: Path, schema: Mapping[str, Any], required: tuple[str, ...], faults: Faults, *,
    size: int, parse: Parse = json.loads,
) -> Iterator[pl.DataFrame]:  # fmt: skip
    """One table a block, with the columns of `schema`; rows without a required value are faults.

    Nested values of text columns arrive as JSON text. With another `parse` every line is read slowly.
    """
    for block in _blocks.blocks(path, size):
        table = _fast(block.data, schema, required) if parse is json.loads else None
        yield _slow(path, block, schema, required, faults, parse) if table is None else table


def table(
    path: Path, schema: Mapping[str, Any], required: tuple[str, ...], faults: Faults, *,
    size: int, parse: Parse = json.loads,
) -> pl.DataFrame:  # fmt: skip
    """The whole file as one table."""
    read = tables(path, schema, required, faults, size=size, parse=parse)
    return pl.concat([pl.DataFrame(schema=_kinds.stored(schema)), *read])


def _fast(data: bytes, schema: Mapping[str, Any], required: tuple[str, ...]) -> pl.DataFrame | None:
    """The block's table, None if anything in it needs a closer look."""
    if not data.strip():
        return _kinds.read(pl.DataFrame(schema=_kinds.stored(schema)), schema)
    try:
        found = pl.read_ndjson(io.BytesIO(data), schema=_kinds.stored(schema))
    except (PolarsError, OSError, pl.exceptions.PanicException):
        return None
    for name in required:
        if found[name].null_count() or (schema[name] == pl.String and _odd(found[name])):
            return None
    return _kinds.read(found, schema)


def _odd(ids: pl.Series) -> bool:
    """Whether an id may have been something else than text or a whole number."""
    if any((ids == word).any() for word in ("", "true", "false")):
        return True
    if any(ids.str.starts_with(mark).any() for mark in "[{"):
        return True
    return bool(ids.str.contains(".", literal=True).any() and ids.str.contains(FRACTION).any())


def _slow(
    path: Path, block: _blocks.Block, schema: Mapping[str, Any], required: tuple[str, ...], faults: Faults, parse: Parse
) -> pl.DataFrame:
    rows: list[dict[str, Any]] = []
    for offset, line in enumerate(block.data.split(b"\n")):
        if not line.strip():
            continue
        row = _row(line, schema, required, parse)
        if isinstance(row, str):
            faults.report(path, block.first + offset, row, line.decode("utf-8", errors="replace"))
        else:
            rows.append(row)
    return pl.DataFrame([_kinds.column(name, [row[name] for row in rows], kind) for name, kind in schema.items()])


def _row(line: bytes, schema: Mapping[str, Any], required: tuple[str, ...], parse: Parse) -> dict[str, Any] | str:
    """The values of one line, or what is wrong with it."""
    try:
        found = _parsed(line.decode("utf-8").removesuffix("\r"), parse)
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        reason = re.sub(r" object at 0x[0-9a-f]+", "", str(error) or type(error).__name__)  # the same every time
        return f"not valid JSON ({reason})" if parse is json.loads else f"cannot be parsed ({reason})"
    if not isinstance(found, dict):
        return f"expected a JSON object, got {type(found).__name__}"
    row: dict[str, Any] = {}
    for name, kind in schema.items():
        value, fits = found.get(name), True
        if name in required and value is None:
            return f"field '{name}' is missing, expected {_kinds.NAMES[kind]}"
        try:
            row[name] = _kinds.one(value, kind)
        except ValueError:
            fits = False
        if not fits or (name in required and (row[name] is None or (kind == pl.String and not _is_id(value)))):
            return f"field '{name}' is {str(value)[:60]!r}, expected {_kinds.NAMES[kind]}"
    return row


def _parsed(text: str, parse: Parse) -> Any:
    return json.loads(text, object_pairs_hook=_first_wins) if parse is json.loads else parse(text)


def _first_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object as polars reads it: of a key that is given twice, the first counts."""
    found = dict(pairs)
    return found if len(found) == len(pairs) else found | dict(reversed(pairs))


def _is_id(value: Any) -> bool:
    whole = isinstance(value, float) and value.is_integer()
    return (whole or isinstance(value, str | int)) and not isinstance(value, bool)
