"""The columns and rows of a plain table, whatever its format."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from ilrec_cli.datasets import _csv_lines, _files, _json_lines, _times, table
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
        made = part.select(_column(path, part[name], kind) for name, kind in kinds.items())
        yield _with_times(path, _complete(path, made, required, reading, first), kinds, reading, first)
        first += len(part)


def _column(path: Path, values: pl.Series, kind: Any) -> pl.Series:
    """A column in the type that its role asks for; nothing where a value does not fit."""
    type_ = values.dtype
    if type_.is_nested() or type_ in (pl.Binary, pl.Time, pl.Duration, pl.Object):
        raise UserError(f"{path}: column '{values.name}' holds {type_}, expected numbers or text")
    if kind is _times.KIND and type_ in (pl.Date, pl.Datetime):
        micro = values.cast(pl.Datetime("us")).dt.epoch("us")
        return (micro // 10**6 if not (micro % 10**6 != 0).any() else micro / 10**6).alias(values.name)
    if kind is _times.KIND:
        return (
            values.cast(pl.String)
            if not type_.is_numeric()
            else values.cast(pl.Float64 if type_.is_float() else pl.Int64, strict=False)
        )
    return values.cast(kind, strict=False)


def _complete(path: Path, part: pl.DataFrame, required: tuple[str, ...], reading: Reading, first: int) -> pl.DataFrame:
    """The rows with all that is required; others are faults, by their number."""
    for name in required:
        empty = part[name].is_null() | (part[name].cast(pl.String) == "")
        for row in empty.arg_true():
            reading.faults.report(
                path, first + row, f"row {first + row}: column '{name}' is empty or of another type", str(part.row(row))
            )
        part = part.filter(~empty)
    return part


def _with_times(path: Path, part: pl.DataFrame, kinds: dict[str, Any], reading: Reading, first: int) -> pl.DataFrame:
    """Text columns of times as numbers; rows whose time is none are faults."""
    for name in (name for name, kind in kinds.items() if kind is _times.KIND and part[name].dtype == pl.String):
        time = _times.parsed(part[name]).alias(name)
        for row in time.is_null().arg_true():
            reading.faults.report(
                path, first + row, f"'{part[name][row]}' in '{name}' is no number and no date", str(part.row(row))
            )
        part = part.with_columns(time).filter(time.is_not_null())
    return part


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
