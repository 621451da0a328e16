"""Reads RecBole's atomic files, whole or as a fixed split."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from ilrec_cli.datasets import _chains, _csv_lines, _files, _raw, _text, recbole
from ilrec_cli.datasets._raw import Raw, Reading
from ilrec_cli.errors import UserError

SPLITS = ("train", "valid", "test")


def load(folder: Path, dataset: str, config: recbole.Config, reading: Reading) -> Raw:
    """Interactions of the .inter file, or of the three files of a fixed split; text from the .item file."""
    every = [config.inter] if config.inter else _files.files(folder, ".inter")
    parts = {name: [path for path in every if f".{name}.inter" in path.name.lower()] for name in SPLITS}
    fixed = {name: _files.named(found, folder, dataset, "inter") for name, found in parts.items()}
    whole = _files.named(
        [path for path in every if not any(path in found for found in parts.values())], folder, dataset, "inter"
    )
    if whole is not None:
        interactions = _raw.interned(part.drop("history", strict=False) for part in _rows(whole, config, reading, None))
        stem = _files.stem(whole, ".inter")
    else:
        missing = [name for name in SPLITS if fixed[name] is None]
        if missing:
            raise UserError(f"{folder}: no file *.{missing[0]}.inter; expected {recbole.EXPECTS}")
        rows = pl.concat([part for name in SPLITS for part in _rows(fixed[name], config, reading, name)])  # type: ignore[arg-type]
        interactions = _raw.interned([_chains.sequences(rows, folder) if "history" in rows.columns else rows])
        stem = _files.stem(fixed["train"], ".train.inter")  # type: ignore[arg-type]
    text = [path for path in _files.files(folder, ".item") if _files.stem(path, ".item") == stem]
    return Raw(interactions, _items(text[0] if text else None, config, interactions["item"], reading))


def _rows(path: Path, config: recbole.Config, reading: Reading, split: str | None) -> Iterator[pl.DataFrame]:
    """user, item, timestamp, rating, and where they are given, history (a list of items) and split."""
    names = {config.user_field: "user", config.item_field: "item", config.time_field: "timestamp", config.rating_field: "rating",
             f"{config.item_field}_list": "history"}  # fmt: skip
    columns = _header(path)
    for role in ("user", "item"):
        if role not in [names.get(name) for name in columns]:
            raise UserError(
                f"{path}:1: no field '{config.user_field if role == 'user' else config.item_field}'; there are {', '.join(columns)}"
            )
    kinds: dict[str, Any] = {"timestamp": pl.Float64, "rating": pl.Float64}
    schema = {name: kinds.get(names.get(name, ""), pl.String) for name in columns}
    required = tuple(name for name in columns if names.get(name) in ("user", "item", "timestamp"))
    about = _csv_lines.Format("\t", schema, required, header=True, quoted=False)
    for part in _csv_lines.tables(path, about, reading.faults, size=reading.block):
        table = part.select(name for name in columns if name in names).rename(names, strict=False)
        if "timestamp" not in table.columns:
            table = table.with_columns(timestamp=pl.lit(0, dtype=pl.Int64))
        if "rating" not in table.columns:
            table = table.with_columns(rating=pl.lit(None, dtype=pl.Float32))
        if "history" in table.columns:
            table = table.with_columns(pl.col("history").fill_null("").str.split(" "))
        yield table.with_columns(
            pl.col("timestamp").floor().cast(pl.Int64), **({"split": pl.lit(split)} if split else {})
        )


def _items(path: Path | None, config: recbole.Config, wanted: pl.Series, reading: Reading) -> pl.DataFrame:
    if path is None:
        return _raw.without_text(wanted)
    columns = _header(path)
    if config.item_field not in columns:
        raise UserError(f"{path}:1: no field '{config.item_field}'; there are {', '.join(columns)}")
    about = _csv_lines.Format("\t", dict.fromkeys(columns, pl.String), (config.item_field,), header=True, quoted=False)
    found = _csv_lines.table(path, about, reading.faults, size=reading.block)
    found = found.unique(config.item_field, keep="first", maintain_order=True)
    fields = {"title": config.title_field, "description": "description", "brand": "brand"}
    text = {
        name: [_text.plain(value) for value in found[field]] if field in columns else [""] * len(found)
        for name, field in fields.items()
    }
    field = next((name for name in ("categories", "category", "genre", "class") if name in columns), None)
    categories = [_text.words(value) for value in found[field]] if field else [[]] * len(found)
    ids = found[config.item_field]
    return _raw.without_text(
        wanted, pl.DataFrame({"raw_id": ids, "source_id": ids, **text, "categories": categories}, schema=_raw.ITEMS)
    )


def _header(path: Path) -> list[str]:
    """Names of the fields, without their types."""
    columns = [field.split(":")[0] for field in _files.first_line(path).split("\t")]
    if columns == [""] or len(set(columns)) < len(columns):
        raise UserError(f"{path}:1: expected a header of different fields such as user_id:token, tabs between them")
    return columns
