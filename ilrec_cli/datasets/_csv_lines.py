"""Separated values to tables, block by block: polars where all is well, line by line where it is not."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from polars.exceptions import PolarsError

from ilrec_cli.datasets import _blocks
from ilrec_cli.datasets._faults import Faults

NAMES: dict[Any, str] = {pl.String: "text", pl.Int64: "a whole number", pl.Float64: "a number"}
LARGEST = 2**63  # of any number: times are stored as 64-bit numbers
csv.field_size_limit(1 << 30)


class Format(NamedTuple):
    """Columns of a file in order, with their types; `header` says whether the first line names them."""

    separator: str
    columns: Mapping[str, Any]
    required: tuple[str, ...]
    header: bool = False
    quoted: bool = True


def tables(path: Path, about: Format, faults: Faults, *, size: int) -> Iterator[pl.DataFrame]:
    """One table a block, with all columns; lines of another width or with a misfit required value are faults."""
    for block in _blocks.blocks(path, size, quoted=about.quoted):
        data, first = block.data, block.first
        if about.header and first == 1:
            cut = data.find(b"\n") + 1
            data, first = (data[cut:], 2) if cut else (b"", 2)
        if data.strip():
            table = _fast(data, about)
            yield _slow(path, data, first, about, faults) if table is None else table


def table(path: Path, about: Format, faults: Faults, *, size: int) -> pl.DataFrame:
    """The whole file as one table."""
    return pl.concat([pl.DataFrame(schema=dict(about.columns)), *tables(path, about, faults, size=size)])


def _fast(data: bytes, about: Format) -> pl.DataFrame | None:
    """The block's table, None if anything in it needs a closer look."""
    try:
        table = pl.read_csv(
            io.BytesIO(data), has_header=False, schema=dict(about.columns), separator=about.separator,
            quote_char='"' if about.quoted else None, truncate_ragged_lines=False,
        )  # fmt: skip
    except (PolarsError, pl.exceptions.PanicException):
        return None
    if any(table[name].null_count() or (kind == pl.String and (table[name] == "").any())
           for name, kind in about.columns.items() if name in about.required):  # fmt: skip
        return None
    numbers = [name for name, kind in about.columns.items() if kind == pl.Float64]
    return table if all((table[name].is_finite() & (table[name].abs() < LARGEST)).all() for name in numbers) else None


def rows(path: Path, about: Format, faults: Faults, *, size: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, values by column) of every line, for sources whose values need a closer look; slow."""
    for block in _blocks.blocks(path, size, quoted=about.quoted):
        for line, values in _lines(path, block.data, block.first, about, faults):
            if not (about.header and line == 1):
                yield line, dict(zip(about.columns, values, strict=True))


def _slow(path: Path, data: bytes, first: int, about: Format, faults: Faults) -> pl.DataFrame:
    found = [values for _, values in _lines(path, data, first, about, faults)]
    return pl.DataFrame(found, schema=dict(about.columns), orient="row")


def _lines(path: Path, data: bytes, first: int, about: Format, faults: Faults) -> Iterator[tuple[int, list[Any]]]:
    text = io.StringIO(data.decode("utf-8", errors="replace"), newline="")
    reader = csv.reader(
        text, delimiter=about.separator, quoting=csv.QUOTE_MINIMAL if about.quoted else csv.QUOTE_NONE, strict=True
    )
    while True:
        line = first + reader.line_num
        try:
            parts = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            faults.report(path, line, f"not a line of values ({error})")
            continue
        if any(part.strip() for part in parts):
            found = _row(parts, about)
            if isinstance(found, str):
                faults.report(path, line, found, about.separator.join(parts))
            else:
                yield line, found


def _row(parts: list[str], about: Format) -> list[Any] | str:
    if len(parts) != len(about.columns):
        return f"{len(parts)} values, expected {len(about.columns)} ({', '.join(about.columns)})"
    values: list[Any] = []
    for (name, kind), text in zip(about.columns.items(), parts, strict=True):
        value = _value(text, kind)
        if value is None and (name in about.required or text.strip()):
            return f"column '{name}' is {text[:60]!r}, expected {NAMES[kind]}"
        values.append(value)
    return values


def _value(text: str, kind: Any) -> Any:
    """The value that a text spells, None if it spells none."""
    if kind == pl.String:
        return text.replace("\x00", "") or None
    try:
        value = int(text) if kind == pl.Int64 else float(text)
    except ValueError:
        return None
    return value if abs(value) < LARGEST else None  # false for NaN too


def rows_of(text: str, separator: str) -> list[list[str]]:
    """The values of a few lines, for headers."""
    return list(csv.reader(io.StringIO(text, newline=""), delimiter=separator))
