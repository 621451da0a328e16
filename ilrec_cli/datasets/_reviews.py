"""Review lines and metadata lines: how the Amazon editions are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import polars as pl

from ilrec_cli.datasets import _files, _json_lines, _log, _raw
from ilrec_cli.datasets._log import Log
from ilrec_cli.datasets._raw import Reading
from ilrec_cli.errors import UserError

KINDS = {"user": pl.String, "item": pl.String, "timestamp": pl.Int64, "rating": pl.Float64}


def reviews_file(source: ModuleType, folder: Path, dataset: str, config: Any) -> Path:
    """The file of review lines that the options name, or the only one that fits."""
    found = config.reviews or _files.named(source.review_files(folder), folder, dataset, "reviews")
    if found is None:
        raise UserError(f"{folder}: no review file found; expected {source.EXPECTS}")
    return Path(found)


def interactions(path: Path, columns: Mapping[str, str], reading: Reading) -> Log:
    """The log of a file; `columns` names the fields that hold user, item, timestamp and rating."""
    schema = {columns[name]: kind for name, kind in KINDS.items()}
    read = _json_lines.tables(path, schema, tuple(schema), reading.faults, size=reading.block)
    names = {field: name for name, field in columns.items()}
    return _log.interned((part.rename(names) for part in read), reading.spill)


def items(
    source: ModuleType, folder: Path, dataset: str, config: Any, columns: dict[str, str], wanted: pl.Series, reading: Reading,
    *, parse: Any = json.loads,
) -> pl.DataFrame:  # fmt: skip
    """Text of the items that occur, from metadata lines where there are any."""
    path = config.metadata or _files.named(source.metadata_files(folder), folder, dataset, "metadata")
    if path is None:
        return _raw.nameless(wanted)
    schema = dict.fromkeys(columns.values(), pl.String)
    table = _json_lines.table(path, schema, (columns["raw_id"],), reading.faults, size=reading.block, parse=parse)
    return _raw.described(table, columns, wanted, reading)
