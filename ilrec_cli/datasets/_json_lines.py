"""JSON lines to tables, block by block: polars where all is well, line by line where it is not.

polars names no line for a fault and has no way to skip one, so a block in which anything is wrong is read again with
`json.loads`, which finds the lines and says what is wrong with them.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl
from polars.exceptions import PolarsError

from ilrec_cli.datasets import _blocks, _times
from ilrec_cli.datasets._faults import Faults

NAMES: dict[Any, str] = {
    pl.String: "text", pl.Int64: "a whole number", pl.Float64: "a number", _times.KIND: "a number or a date",
}  # fmt: skip
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
    return pl.concat([pl.DataFrame(schema=_times.stored(schema)), *read])


def _fast(data: bytes, schema: Mapping[str, Any], required: tuple[str, ...]) -> pl.DataFrame | None:
    """The block's table, None if anything in it needs a closer look."""
    if not data.strip():
        return pl.DataFrame(schema=_times.stored(schema)).with_columns(
            pl.col(name).cast(pl.Int64) for name, kind in schema.items() if kind is _times.KIND
        )
    try:
        found = pl.read_ndjson(io.BytesIO(data), schema=_times.stored(schema))
    except (PolarsError, OSError, pl.exceptions.PanicException):
        return None
    for name in required:
        kind = schema[name]
        if kind is _times.KIND:
            found = found.with_columns(_times.parsed(found[name]).alias(name))
        values = found[name]
        if values.null_count() or (kind == pl.Float64 and not _sound(values)):
            return None
        if kind == pl.String and _odd(values):
            return None
    return found


def _odd(ids: pl.Series) -> bool:
    """Whether an id may have been something else than text or a whole number."""
    if any((ids == word).any() for word in ("", "true", "false")):
        return True
    if any(ids.str.starts_with(mark).any() for mark in "[{"):
        return True
    return bool(ids.str.contains(".", literal=True).any() and ids.str.contains(FRACTION).any())


def _sound(values: pl.Series) -> bool:
    return bool((values.is_finite() & (values.abs() < _times.LARGEST)).all())


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
    made: dict[str, Any] = {}
    for name, kind in schema.items():
        values = [row[name] for row in rows]
        timed = kind is _times.KIND
        made[name] = _times.column(values).alias(name) if timed else pl.Series(name, values, dtype=kind, strict=False)
    return pl.DataFrame(made)


def _row(line: bytes, schema: Mapping[str, Any], required: tuple[str, ...], parse: Parse) -> dict[str, Any] | str:
    """The values of one line, or what is wrong with it."""
    try:
        found = parse(line.decode("utf-8").removesuffix("\r"))
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        reason = re.sub(r" object at 0x[0-9a-f]+", "", str(error) or type(error).__name__)  # the same every time
        return f"not valid JSON ({reason})" if parse is json.loads else f"cannot be parsed ({reason})"
    if not isinstance(found, dict):
        return f"expected a JSON object, got {type(found).__name__}"
    for name in required:
        if problem := _problem(name, found.get(name), schema[name]):
            return problem
    return {name: _value(found.get(name), kind) for name, kind in schema.items()}


def _problem(name: str, value: Any, kind: Any) -> str | None:
    if value is None:
        return f"field '{name}' is missing, expected {NAMES[kind]}"
    if kind is _times.KIND:
        fits = _value(value, kind) is not None
    elif kind == pl.String:
        whole = isinstance(value, float) and value.is_integer()  # 7.0 is the id 7
        fits = (whole or isinstance(value, str | int)) and not isinstance(value, bool) and value != ""
    else:
        fits = isinstance(value, int if kind == pl.Int64 else int | float) and not isinstance(value, bool)
        fits = fits and abs(value) < _times.LARGEST and math.isfinite(value)
    return None if fits else f"field '{name}' is {str(value)[:60]!r}, expected {NAMES[kind]}"


def _value(value: Any, kind: Any) -> Any:
    """As polars would give it: nested values of text columns as JSON text, other misfits as nothing."""
    if kind is _times.KIND:
        return None if isinstance(value, bool) else _times.one(str(value))
    if kind == pl.String:
        value = int(value) if isinstance(value, float) and value.is_integer() else value
        text = value if value is None or isinstance(value, str) else json.dumps(value)
        return text if text is None else text.encode("utf-8", "replace").decode("utf-8")  # halves of emoji
    fits = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _times.LARGEST
    return value if fits else None
