"""Reads RecBole's atomic files, whole or as a fixed split."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from ilrec_cli.datasets import _chains, _csv_lines, _files, _kinds, _log, _raw, recbole
from ilrec_cli.datasets._log import Log
from ilrec_cli.datasets._raw import Raw, Reading
from ilrec_cli.errors import UserError

SPLITS = ("train", "valid", "test")
CATEGORIES = ("categories", "category", "genre", "class")


def load(folder: Path, dataset: str, config: recbole.Config, reading: Reading) -> Raw:
    """Interactions of the .inter file, or of the three files of a fixed split; text from the .item file."""
    every = [config.inter] if config.inter else _files.files(folder, ".inter")
    parts = {name: [path for path in every if f".{name}.inter" in path.name.lower()] for name in SPLITS}
    single = [path for path in every if not any(path in found for found in parts.values())]
    whole = _files.named(single, folder, dataset, "inter")
    if whole is not None:
        interactions, ticks = _timed(_rows(whole, config, reading, None), [whole], config, reading)
        stem = _files.stem(whole, ".inter")
    else:
        found = {name: _files.named(paths, folder, dataset, "inter") for name, paths in parts.items()}
        fixed = [path for path in found.values() if path is not None]
        if len(fixed) < len(SPLITS):
            missing = next(name for name, path in found.items() if path is None)
            raise UserError(f"{folder}: no file *.{missing}.inter; expected {recbole.EXPECTS}")
        rows = (part for name, path in zip(SPLITS, fixed, strict=True) for part in _rows(path, config, reading, name))
        if _all_have(f"{config.item_field}_list", fixed):
            interactions, ticks = _chained(rows, folder, reading), None
        else:
            interactions, ticks = _timed(rows, fixed, config, reading)
        stem = _files.stem(fixed[0], ".train.inter")
    text = [path for path in _files.files(folder, ".item") if _files.stem(path, ".item") == stem]
    return Raw(interactions, _items(text[0] if text else None, config, interactions.items.names, reading), ticks)


def _chained(rows: Iterator[pl.DataFrame], folder: Path, reading: Reading) -> Log:
    """The log of rows that give each target with its history."""
    parts = list(rows)
    if not parts:
        return _log.interned([], reading.spill)
    return _log.interned([_chains.sequences(pl.concat(parts), folder)], reading.spill)


def _timed(
    parts: Iterator[pl.DataFrame], paths: list[Path], config: recbole.Config, reading: Reading
) -> tuple[Log, int | None]:
    """The log, and its ticks: None where no file has a time, so that the order of rows counts."""
    timed = _all_have(config.time_field, paths)
    plain = (part.drop("history", strict=False) for part in parts)
    log = _log.interned(plain, reading.spill, timed=timed)
    return log, log.clock.ticks if timed else None


def _all_have(field: str, paths: list[Path]) -> bool:
    """Whether the files have a field: all or none of them."""
    having = [field in _header(path) for path in paths]
    if any(having) and not all(having):
        lacking, other = paths[having.index(False)], paths[having.index(True)].name
        raise UserError(f"{lacking}:1: no field '{field}', though {other} has it; a split's files need the same fields")
    return all(having)


def _rows(path: Path, config: recbole.Config, reading: Reading, split: str | None) -> Iterator[pl.DataFrame]:
    """user, item, rating, and where they are given, timestamp, history (a list of items) and split."""
    names = {
        config.user_field: "user", config.item_field: "item", config.time_field: "timestamp",
        config.rating_field: "rating", f"{config.item_field}_list": "history",
    }  # fmt: skip
    columns = _header(path)
    for field in (config.user_field, config.item_field):
        if field not in columns:
            raise UserError(f"{path}:1: no field '{field}'; there are {', '.join(columns)}")
    kinds: dict[str, Any] = {"timestamp": _kinds.TIME, "rating": pl.Float64}
    schema = {name: kinds.get(names.get(name, ""), pl.String) for name in columns}
    required = tuple(name for name in columns if names.get(name) in ("user", "item", "timestamp"))
    about = _csv_lines.Format("\t", schema, required, header=True, quoted=False)
    for part in _csv_lines.tables(path, about, reading.faults, size=reading.block):
        table = part.select(name for name in columns if name in names).rename(names, strict=False)
        if "rating" not in table.columns:
            table = table.with_columns(rating=pl.lit(None, dtype=pl.Float64))
        if "history" in table.columns:
            table = table.with_columns(pl.col("history").fill_null("").str.split(" "))
        yield table.with_columns(split=pl.lit(split)) if split else table


def _items(path: Path | None, config: recbole.Config, wanted: pl.Series, reading: Reading) -> pl.DataFrame:
    if path is None:
        return _raw.nameless(wanted)
    names = _header(path)
    if config.item_field not in names:
        raise UserError(f"{path}:1: no field '{config.item_field}'; there are {', '.join(names)}")
    about = _csv_lines.Format("\t", dict.fromkeys(names, pl.String), (config.item_field,), header=True, quoted=False)
    table = _csv_lines.table(path, about, reading.faults, size=reading.block)
    fields = {"title": config.title_field, "description": "description", "brand": "brand"}
    fields["categories"] = next((name for name in CATEGORIES if name in names), "")
    columns = {"raw_id": config.item_field, **{name: field for name, field in fields.items() if field in names}}
    return _raw.described(table, columns, wanted, reading)


def _header(path: Path) -> list[str]:
    """Names of the fields, without their types."""
    columns = [field.split(":")[0] for field in _files.first_line(path).split("\t")]
    if columns == [""] or len(set(columns)) < len(columns):
        raise UserError(f"{path}:1: expected a header of different fields such as user_id:token, tabs between them")
    return columns
