"""Review lines and metadata lines: what the Amazon editions share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from ilrec_cli.datasets import _json_lines, _raw, _text
from ilrec_cli.datasets._raw import Reading


def interactions(path: Path, columns: Mapping[str, str], reading: Reading) -> pl.DataFrame:
    """Interned interactions; `columns` names the fields that hold user, item, timestamp and rating."""
    kinds = {"user": pl.String, "item": pl.String, "timestamp": pl.Int64, "rating": pl.Float64}
    schema = {columns[name]: kind for name, kind in kinds.items()}
    read = _json_lines.tables(path, schema, tuple(schema), reading.faults, size=reading.block)
    names = {field: name for name, field in columns.items()}
    return _raw.interned(part.rename(names) for part in read)


def items(
    path: Path | None, columns: Mapping[str, str], wanted: pl.Series, reading: Reading, *, parse: Any = json.loads
) -> pl.DataFrame:
    """Text of the items that occur, from metadata lines; the first line of an item counts."""
    if path is None:
        return _raw.without_text(wanted)
    schema = dict.fromkeys(columns.values(), pl.String)
    ids = wanted.unique().cast(pl.String).implode()
    parts = [
        part.filter(pl.col(columns["raw_id"]).is_in(ids))
        for part in _json_lines.tables(
            path, schema, (columns["raw_id"],), reading.faults, size=reading.block, parse=parse
        )
    ]
    table = pl.concat(parts) if parts else pl.DataFrame(schema=schema)
    table = table.unique(columns["raw_id"], keep="first", maintain_order=True)
    ids_ = table[columns["raw_id"]]
    text = {name: _texts(table, columns.get(name)) for name in ("title", "description", "brand")}
    categories = (
        [_text.words(value) for value in table[columns["categories"]]] if "categories" in columns else [[]] * len(ids_)
    )
    known = pl.DataFrame({"raw_id": ids_, "source_id": ids_, **text, "categories": categories}, schema=_raw.ITEMS)
    return _raw.without_text(wanted, known)


def _texts(table: pl.DataFrame, field: str | None) -> list[str]:
    return [_text.plain(value) for value in table[field]] if field else [""] * len(table)
