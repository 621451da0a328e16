"""The columns and rows of a plain table, whatever its format."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ilrec_cli.datasets import _csv_lines, _files, _json_lines, _kinds, _times, table
from ilrec_cli.datasets._raw import Reading
from ilrec_cli.errors import UserError

ROWS = 1 << 20  # of a Parquet file at a time
PEEK = 1000  # lines of JSON in which a field may turn up first


def columns(path: Path) -> list[str]:
    """Names of the columns, in their order."""
    if _is_parquet(path):
        return list(_parquet(path).schema_arrow.names)
    if _files.first_object(path) is not None:
        return list(dict.fromkeys(name for _, line in islice(_files.lines(path), PEEK) for name in _fields(line)))
    if not (line := _files.first_line(path)):
        raise UserError(f"{path}: the first line is empty or no text; expected the names of the columns")
    names = [name.strip() for name in next(iter(_csv_lines.rows_of(line, table.separator(line))))]
    if len(set(names)) < len(names):
        raise UserError(f"{path}:1: two columns have the same name: {', '.join(names)}")
    return names


def tables(path: Path, kinds: dict[str, Any], required: tuple[str, ...], reading: Reading) -> Iterator[pl.DataFrame]:
    """The columns named in `kinds`, block by block; times arrive as numbers."""
    if _is_parquet(path):
        yield from _parquet_tables(path, kinds, required, reading)
    elif _files.first_object(path) is not None:
        yield from _json_lines.tables(path, kinds, required, reading.faults, size=reading.block)
    else:
        line = _files.first_line(path)
        every = {name: kinds.get(name, pl.String) for name in columns(path)}
        about = _csv_lines.Format(table.separator(line), every, required, header=True)
        for part in _csv_lines.tables(path, about, reading.faults, size=reading.block):
            yield part.select(*kinds)


def _fields(line: bytes) -> list[str]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return []
    return list(found) if isinstance(found, dict) else []


def _parquet_tables(
    path: Path, kinds: dict[str, Any], required: tuple[str, ...], reading: Reading
) -> Iterator[pl.DataFrame]:
    first = 1
    for batch in _parquet(path).iter_batches(batch_size=ROWS, columns=list(kinds)):
        part = pl.DataFrame(pl.from_arrow(batch))
        made = pl.DataFrame([_column(path, part[name], kind) for name, kind in kinds.items()])
        good = pl.Series(np.ones(len(part), dtype=bool))
        for name, kind in kinds.items():
            empty = part[name].is_null() | (part[name].cast(pl.String).str.strip_chars() == "").fill_null(False)
            bad = _bad(made[name], empty, name in required)
            for row in (bad & good).arg_true():
                reason = f"row {first + row}: column '{name}' is {part[name][row]!r}, expected {_kinds.NAMES[kind]}"
                reading.faults.report(path, first + row, reason, str(part.row(row)))
            good &= ~bad
        yield made.filter(good)
        first += len(part)


def _bad(made: pl.Series, empty: pl.Series, required: bool) -> pl.Series:
    """Whether a value is a misfit, or nothing where something is required."""
    return (made.is_null() & ~empty) | (empty if required else False)


def _column(path: Path, values: pl.Series, kind: Any) -> pl.Series:
    """A column in its kind; nothing where a value does not fit."""
    type_ = values.dtype
    number = kind not in (pl.String, _kinds.SPLIT)
    dated = type_ in (pl.Date, pl.Datetime)
    misfit = type_.is_nested() or type_ in (pl.Binary, pl.Time, pl.Duration, pl.Object)
    if misfit or (number and (type_ == pl.Boolean or (dated and kind is not _kinds.TIME))):
        raise UserError(f"{path}: column '{values.name}' holds {type_}, expected {_kinds.NAMES[kind]}")
    if kind is _kinds.TIME and dated:
        return _times.from_dates(values)
    if type_.is_float() and kind is _kinds.TIME:
        return _times.from_floats(values.cast(pl.Float64))
    if type_.is_numeric() and kind == pl.Float64:
        found = values.cast(pl.Float64)
        return found.set(~_kinds.sound(found), None)
    if type_.is_integer() and kind is _kinds.TIME:
        return values.cast(pl.Int64, strict=False)
    return _kinds.from_texts(values.cast(pl.String), kind)


def _is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def _parquet(path: Path) -> Any:
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    try:
        return pq.ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise UserError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
