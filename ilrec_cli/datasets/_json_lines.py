"""JSON lines to tables, block by block: polars where all is well, line by line where it is not.

polars names no line for a fault and has no way to skip one, so a block in which anything is wrong is read again with
`json.loads`, which finds the lines and says what is wrong with them.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl
from polars.exceptions import PolarsError

from ilrec_cli.datasets import _blocks
from ilrec_cli.datasets._faults import Faults

# A column's polars type -> the types its JSON values may have, where the column is required.
ACCEPTED: dict[Any, tuple[type, ...]] = {pl.String: (str, int), pl.Int64: (int,), pl.Float64: (int, float)}
NAMES: dict[Any, str] = {pl.String: "text", pl.Int64: "a whole number", pl.Float64: "a number"}
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


def _fast(data: bytes, schema: Mapping[str, Any], required: tuple[str, ...]) -> pl.DataFrame | None:
    """The block's table, None if anything in it needs a closer look."""
    if not data.strip():
        return pl.DataFrame(schema=dict(schema))
    try:
        table = pl.read_ndjson(io.BytesIO(data), schema=dict(schema))
    except (PolarsError, OSError, pl.exceptions.PanicException):
        return None
    texts = [name for name in required if schema[name] == pl.String]
    clean = all(table[name].null_count() == 0 for name in required) and all((table[name] != "").all() for name in texts)
    floats = [name for name in required if schema[name] == pl.Float64]
    return table if clean and all(table[name].is_finite().all() for name in floats) else None


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
    columns = {name: [row[name] for row in rows] for name in schema}
    return pl.DataFrame(columns, schema=dict(schema), strict=False)


def _row(line: bytes, schema: Mapping[str, Any], required: tuple[str, ...], parse: Parse) -> dict[str, Any] | str:
    """The values of one line, or what is wrong with it."""
    try:
        found = parse(line.decode("utf-8").removesuffix("\r"))
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        return (
            f"not valid JSON ({error or type(error).__name__})"
            if parse is json.loads
            else f"cannot be parsed ({error})"
        )
    if not isinstance(found, dict):
        return f"expected a JSON object, got {type(found).__name__}"
    for name in required:
        if problem := _problem(name, found.get(name), schema[name]):
            return problem
    return {name: _value(found.get(name), kind) for name, kind in schema.items()}


def _problem(name: str, value: Any, kind: Any) -> str | None:
    if value is None:
        return f"field '{name}' is missing, expected {NAMES[kind]}"
    fits = isinstance(value, ACCEPTED[kind]) and not isinstance(value, bool) and value != ""
    if isinstance(value, float):
        fits = fits and math.isfinite(value)
    elif isinstance(value, int):
        fits = fits and abs(value) < 2**63
    return None if fits else f"field '{name}' is {str(value)[:60]!r}, expected {NAMES[kind]}"


def _value(value: Any, kind: Any) -> Any:
    """As polars would give it: nested values of text columns as JSON text, other misfits as nothing."""
    if kind == pl.String:
        text = value if value is None or isinstance(value, str) else json.dumps(value)
        return text if text is None else text.encode("utf-8", "replace").decode("utf-8")  # halves of emoji
    fits = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**63
    return value if fits else None
