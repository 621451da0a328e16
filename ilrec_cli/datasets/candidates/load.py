"""Reads rows of history, candidates and true item; every row becomes a user with one target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from ilrec_cli.datasets import _files, _log, _raw, candidates
from ilrec_cli.datasets._raw import Raw, Reading
from ilrec_cli.errors import UserError


def load(folder: Path, dataset: str, config: candidates.Config, reading: Reading) -> Raw:
    """Interactions with the published split, and the published candidates of every target."""
    files = candidates.row_files(folder)
    if not files:
        raise UserError(f"{folder}: no file of rows found; expected {candidates.EXPECTS}")
    events: list[tuple[str, str, int, str | None]] = []
    offered: dict[str, list[Any]] = {"user": [], "items": []}
    for split, paths in files.items():
        path = _files.named(paths, folder, dataset, split)
        assert path is not None
        rows = _files.read_json(path)
        if not isinstance(rows, list):
            raise UserError(f"{path}: expected a list of rows, got {type(rows).__name__}")
        trains = len(rows) - round(len(rows) * config.valid_share) if split == "valid" else 0
        for number, row in enumerate(rows, start=1):
            history, items, target = _checked(path, number, row, config, reading)
            if not history:
                continue
            user = f"{split}-{number:07d}"  # its file and row, whatever they are used for
            events += [(user, item, place, None) for place, item in enumerate(history)]
            events.append((user, target, len(history), "train" if number <= trains else split))
            offered["user"].append(user)
            offered["items"].append(items)
    table = pl.DataFrame(
        events, schema={"user": pl.String, "item": pl.String, "timestamp": pl.Int64, "split": pl.String}, orient="row"
    )
    interactions = _log.interned([table.with_columns(rating=pl.lit(None, dtype=pl.Float32))], reading.spill)
    names = pl.Series([name for items in offered["items"] for name in items] + table["item"].to_list()).unique().sort()
    known = _raw.plain_items({"raw_id": names, "title": names}, {"raw_id": "raw_id", "title": "title"}, reading)
    published = pl.DataFrame(offered, schema={"user": pl.String, "items": pl.List(pl.String)})
    return Raw(interactions, known, None, published)


def _checked(
    path: Path, number: int, row: Any, config: candidates.Config, reading: Reading
) -> tuple[list[str], list[str], str]:
    """(history, candidates, target) of a row; an empty history for one that was skipped."""
    problem = _problem(row)
    if problem:
        reading.faults.report(path, number, f"row {number}: {problem}", str(row))
        return [], [], ""
    history = [name.strip() for name in row["historyList"].split(config.separator) if name.strip()]
    return history, [name.strip() for name in row["itemList"]], row["trueSelection"].strip()


def _problem(row: Any) -> str | None:
    if not isinstance(row, dict):
        return f"expected an object, got {type(row).__name__}"
    missing = [name for name in candidates.FIELDS if name not in row]
    if missing:
        return f"field '{missing[0]}' is missing"
    texts = [row["historyList"], row["trueSelection"]]
    if not all(isinstance(value, str) and value.strip() for value in texts):
        return "historyList and trueSelection must be text"
    items = row["itemList"]
    if not isinstance(items, list) or not all(isinstance(name, str) and name.strip() for name in items):
        return "itemList must be a list of names"
    names = [name.strip() for name in items]
    if len(set(names)) < len(names) or row["trueSelection"].strip() not in names:
        return "itemList must hold trueSelection, and every name once"
    return None
