"""Separated values to tables, block by block: polars where all is well, line by line where it is not."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from polars.exceptions import PolarsError

from ilrec_cli.datasets import _blocks, _kinds
from ilrec_cli.datasets._faults import Faults
from ilrec_cli.errors import UserError

csv.field_size_limit(1 << 30)


class Format(NamedTuple):
    """Columns of a file in order, with their types; `header` says whether the first line names them."""

    separator: str
    columns: Mapping[str, Any]
    required: tuple[str, ...]
    header: bool = False
    quoted: bool = True


def tables(path: Path, about: Format, faults: Faults, *, size: int) -> Iterator[pl.DataFrame]:
    """One table a block, with all columns. Lines with too many values or without a required one are faults."""
    for block in _blocks.blocks(path, size, quoted=about.quoted):
        data, first = _body(block, about)
        if data.strip():
            found = _fast(data, about)
            yield _slow(path, data, first, about, faults) if found is None else found


def table(path: Path, about: Format, faults: Faults, *, size: int) -> pl.DataFrame:
    """The whole file as one table, for files without times."""
    return pl.concat([pl.DataFrame(schema=_kinds.stored(about.columns)), *tables(path, about, faults, size=size)])


def rows(path: Path, about: Format, faults: Faults, *, size: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, values by column) of every line, for sources whose values need a closer look; slow."""
    for block in _blocks.blocks(path, size, quoted=about.quoted):
        data, first = _body(block, about)
        for line, values in _lines(path, data, first, about, faults):
            yield line, dict(zip(about.columns, values, strict=True))


def rows_of(text: str, separator: str) -> list[list[str]]:
    """The values of a few lines, for headers."""
    return list(csv.reader(io.StringIO(text, newline=""), delimiter=separator))


def _body(block: _blocks.Block, about: Format) -> tuple[bytes, int]:
    """The block without the file's header, and the number of its first line."""
    if not (about.header and block.first == 1):
        return block.data, block.first
    cut = block.data.find(b"\n") + 1
    return (block.data[cut:], 2) if cut else (b"", 2)


def _fast(data: bytes, about: Format) -> pl.DataFrame | None:
    """The block's table, None if anything in it needs a closer look."""
    if b"\r" in data and data.count(b"\r") != data.count(b"\r\n"):  # which ends a line for some and not for others
        return None
    try:
        found = pl.read_csv(
            io.BytesIO(data), has_header=False, schema=_kinds.stored(about.columns), separator=about.separator,
            quote_char='"' if about.quoted else None, truncate_ragged_lines=False,
        )  # fmt: skip
    except (PolarsError, pl.exceptions.PanicException):
        return None
    for name in about.required:
        values = found[name]
        if values.null_count() or (values.dtype == pl.String and (values == "").any()):
            return None
    return _kinds.read(found, about.columns)


def _slow(path: Path, data: bytes, first: int, about: Format, faults: Faults) -> pl.DataFrame:
    found = [values for _, values in _lines(path, data, first, about, faults)]
    return pl.DataFrame(
        [
            _kinds.column(name, [row[place] for row in found], kind)
            for place, (name, kind) in enumerate(about.columns.items())
        ]
    )


def _lines(path: Path, data: bytes, first: int, about: Format, faults: Faults) -> Iterator[tuple[int, list[Any]]]:
    text = io.StringIO(data.decode("utf-8", errors="surrogateescape"), newline="\n")
    quoting = csv.QUOTE_MINIMAL if about.quoted else csv.QUOTE_NONE
    reader = csv.reader(text, delimiter=about.separator, quoting=quoting, strict=True)  # type: ignore[arg-type]
    while True:
        line = first + reader.line_num
        try:
            parts = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end of data" in str(error):  # everything up to the end is inside the quotes: not one line
                raise UserError(f'{path}:{line}: a quote (") is opened in this line and never closed') from error
            faults.report(path, line, f"not a line of values ({error})")
            continue
        if any(part.strip() for part in parts):
            found = _row(parts, about)
            if isinstance(found, str):
                shown = about.separator.join(parts)
                faults.report(path, line, found, shown.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
            else:
                yield line, found


def _row(parts: list[str], about: Format) -> list[Any] | str:
    """The typed values of a line, missing ones at its end as nothing; or what is wrong with it."""
    missing = len(about.columns) - len(parts)
    late = set(list(about.columns)[len(parts) :]) if missing > 0 else set()
    if missing < 0 or late & set(about.required):
        return f"{len(parts)} values, expected {len(about.columns)} ({', '.join(about.columns)})"
    values: list[Any] = []
    for (name, kind), text in zip(about.columns.items(), [*parts, *[""] * missing], strict=True):
        if not text.isascii() and text.encode("utf-8", "surrogateescape") != text.encode("utf-8", "replace"):
            return f"column '{name}' is not valid UTF-8"
        try:
            value = _kinds.one(text, kind)
        except ValueError:
            value, fits = None, False
        else:
            fits = value is not None or name not in about.required
        if not fits:
            return f"column '{name}' is {text[:60]!r}, expected {_kinds.NAMES[kind]}"
        values.append(value)
    return values
