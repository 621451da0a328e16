"""Reads plain tables: which column is what, and the item text beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from ilrec_cli.datasets import _files, _kinds, _log, _raw, table
from ilrec_cli.datasets._raw import Raw, Reading
from ilrec_cli.datasets.table import files
from ilrec_cli.errors import UserError, nearest

FLAGS = {"user": "user_col", "item": "item_col", "timestamp": "time_col", "rating": "rating_col", "split": "split_col"}
KINDS: dict[str, Any] = {
    "user": pl.String,
    "item": pl.String,
    "timestamp": _kinds.TIME,
    "rating": pl.Float64,
    "split": _kinds.SPLIT,
}
REQUIRED = ("user", "item", "timestamp")
TEXT = ("title", "description", "brand", "categories")


def load(folder: Path, dataset: str, config: table.Config, reading: Reading) -> Raw:
    """Interactions by the columns' names or the options; without a time, rows are in order of time."""
    path = config.file or _files.named(table.table_files(folder), folder, dataset, "file")
    if path is None:
        raise UserError(f"{folder}: no table found; expected {table.EXPECTS}")
    names = files.columns(path)
    chosen = {role: _choose(path, names, role, getattr(config, flag)) for role, flag in FLAGS.items()}
    roles = {name: role for role, name in chosen.items() if name}
    required = tuple(name for name, role in roles.items() if role in REQUIRED)
    kinds = {name: KINDS[role] for name, role in roles.items()}
    timed = chosen["timestamp"] is not None
    parts = (part.rename(roles) for part in files.tables(path, kinds, required, reading))
    log = _log.interned(parts, reading.spill, timed=timed)
    items = _items(config.items or _beside(path), config, chosen["item"] or "", log.items.names, reading)
    return Raw(log, items, log.clock.ticks if timed else None)


def _choose(path: Path, names: list[str], role: str, asked: str | None) -> str | None:
    """The column of a role: the one asked for, or the only one with a known name."""
    flag = ("--" if role != "split" else "-o ") + FLAGS[role].replace("_", "-" if role != "split" else "_")
    if asked is not None:
        if asked not in names:
            raise UserError(
                f"{path}: no column '{asked}' ({flag}); there are {', '.join(names)}.{nearest(asked, names)}"
            )
        return asked
    found = [name for name in names if name.lower() in table.KNOWN.get(role, ())]
    if len(found) > 1:
        raise UserError(f"{path}: several columns may be the {role}: {', '.join(found)}; name it with {flag}")
    if not found and role in ("user", "item"):
        raise UserError(f"{path}: no column is known as the {role}; name it with {flag}. There are {', '.join(names)}")
    return found[0] if found else None


def _beside(path: Path) -> Path | None:
    """`log.items.csv` beside `log.csv`, as `ilrec data convert` writes it."""
    stem = next(path.name[: path.name.lower().index(end)] for end in (*table.SUFFIXES, ".") if end in path.name.lower())
    found = [
        each
        for each in _files.files(path.parent, *table.SUFFIXES)
        if each.name.lower().startswith(f"{stem}.items.".lower())
    ]
    return found[0] if found else None


def _items(path: Path | None, config: table.Config, item: str, wanted: pl.Series, reading: Reading) -> pl.DataFrame:
    if path is None:
        return _raw.nameless(wanted)
    found, columns = _text_table(path, config, item, reading)
    return _raw.described(found, columns, wanted, reading)


def described_items(path: Path, reading: Reading) -> pl.DataFrame:
    """Every item of a table of item text alone; the first row of an item counts."""
    if not path.is_file():
        raise UserError(f"--items {path}: no such file")
    found, columns = _text_table(path, table.Config(), "raw_id", reading)
    if found.is_empty():
        raise UserError(f"--items {path}: no item in it")
    return _raw.described(found, columns, found[columns["raw_id"]].unique(maintain_order=True), reading)


def _text_table(path: Path, config: table.Config, item: str, reading: Reading) -> tuple[pl.DataFrame, dict[str, str]]:
    """The columns of an item's id and text, and what they are called."""
    names = files.columns(path)
    known = [name for name in (config.item_col, item, *table.KNOWN["item"]) if name in names]
    if not known:
        raise UserError(f"{path}: no item column found; there are {', '.join(names)}")
    fields = {name: getattr(config, f"{name}_col") for name in TEXT}
    columns = {"raw_id": known[0], **{name: field for name, field in fields.items() if field in names}}
    kinds = dict.fromkeys(columns.values(), pl.String)
    parts = list(files.tables(path, kinds, (known[0],), reading))
    return pl.concat([pl.DataFrame(schema=kinds), *parts]), columns
