"""Reads rows of history and target: sequences are put together from what all rows of a user say."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from ilrec_cli.datasets import _chains, _csv_lines, _files, _kinds, _log, _raw, minionerec
from ilrec_cli.datasets._raw import Raw, Reading
from ilrec_cli.errors import UserError

Row = dict[str, Any]
EVENT: Any = {"user": pl.String, "item": pl.String, "timestamp": pl.Int64, "rating": pl.Float32, "split": pl.String}
ITEM = {"raw_id": pl.String, "source_id": pl.String, "title": pl.String}


def load(folder: Path, dataset: str, config: minionerec.Config, reading: Reading) -> Raw:
    """Interactions with the published split; items known only from histories have none."""
    events: list[Row] = []
    items: list[Row] = []
    rows: list[Row] = []
    timed = True
    for split in minionerec.SPLITS:
        path = getattr(config, split) or _files.named(minionerec.row_files(folder, split), folder, dataset, split)
        if path is None:
            raise UserError(f"{folder}: no rows of the {split} split; expected {minionerec.EXPECTS}")
        for line, row in _rows(path, reading):
            try:
                found, known = _events(row, split)
            except ValueError as error:
                reading.faults.report(path, line, str(error), str(row))
                continue
            timed = timed and "timestamp" in row
            rows.append(
                {
                    "user": row["user_id"],
                    "history": [each["item"] for each in found[:-1]],
                    "item": found[-1]["item"],
                    "split": split,
                }
            )
            events += found
            items += known
    interactions = _by_time(events) if timed else _chains.sequences(pl.DataFrame(rows), folder)
    log = _log.interned([interactions], reading.spill)
    described = pl.DataFrame(items + _info(folder, dataset), schema=ITEM).sort(
        pl.col("title") == "", maintain_order=True
    )
    first = described.unique("raw_id", keep="first", maintain_order=True)  # every row names its items again
    text = _raw.described(first, {name: name for name in ITEM}, log.items.names, reading)
    return Raw(log, text, log.clock.ticks if timed else None)


def _by_time(events: list[Row]) -> pl.DataFrame:
    """A target is also in later histories: one interaction, with the split it is a target of."""
    table = pl.DataFrame(events, schema=EVENT).sort(pl.col("split").is_null(), maintain_order=True)
    return table.unique(["user", "item", "timestamp"], keep="first", maintain_order=True)


def _rows(path: Path, reading: Reading) -> Iterator[tuple[int, Row]]:
    header = next(iter(_csv_lines.rows_of(_files.first_line(path), ",")), [])
    for name in ("user_id", "item_id", "history_item_id"):
        if name not in header or len(set(header)) < len(header):
            raise UserError(f"{path}:1: expected different columns, '{name}' among them; there are {', '.join(header)}")
    about = _csv_lines.Format(",", dict.fromkeys(header, pl.String), ("user_id", "item_id"), header=True)
    return _csv_lines.rows(path, about, reading.faults, size=reading.block)


def _events(row: Row, split: str) -> tuple[list[Row], list[Row]]:
    """(interactions, items) of a row: its history, which has no split, and its target.

    `ValueError` says what is wrong with the row.
    """
    numbers = _list(row, "history_item_id")
    asins = _list(row, "history_item_asin" if "history_item_asin" in row else "item_asins") or numbers
    titles = _list(row, "history_item_title") or [""] * len(numbers)
    times = _list(row, "history_timestamp") or list(range(len(numbers)))
    ratings = _list(row, "history_rating") or [None] * len(numbers)
    if len({len(part) for part in (numbers, asins, titles, times, ratings)}) > 1:
        raise ValueError("history columns of different lengths")
    target = (row["item_id"], row.get("item_asin") or row["item_id"], row.get("item_title") or "",
              row.get("timestamp") or len(numbers), row.get("rating"))  # fmt: skip
    every = [*zip(numbers, asins, titles, times, ratings, strict=True), target]
    labels = [None] * len(numbers) + [split]
    events = [{"user": row["user_id"], "item": _id(asin), "timestamp": int(_number(time)), "split": label,
               "rating": None if rating in (None, "") else _number(rating)}
              for (_, asin, _, time, rating), label in zip(every, labels, strict=True)]  # fmt: skip
    items = [
        {"raw_id": _id(asin), "source_id": _id(number), "title": str(title)} for number, asin, title, _, _ in every
    ]
    return events, items


def _info(folder: Path, dataset: str) -> list[Row]:
    """Titles from an info file: lines of (semantic id,) title and number, tabs between."""
    files = _files.files(folder, ".txt") + (_files.files(folder / "info", ".txt") if (folder / "info").is_dir() else [])
    path = _files.named(files, folder, dataset, "info")
    split = (
        [line.decode("utf-8", "replace").rstrip("\r\n").split("\t") for _, line in _files.lines(path)] if path else []
    )
    return [
        {"raw_id": parts[-1], "source_id": parts[-1], "title": parts[-2]} for parts in split if len(parts) in (2, 3)
    ]


def _id(value: Any) -> str:
    if isinstance(value, int | str) and not isinstance(value, bool) and str(value):
        return str(value)
    raise ValueError(f"{str(value)[:60]!r} is no item id")


def _number(value: Any) -> float:
    try:
        found = _kinds.one(value, pl.Float64)
    except ValueError:
        found = None
    if found is None:
        raise ValueError(f"{str(value)[:60]!r} is no number")
    return float(found)


def _list(row: Row, name: str) -> list[Any]:
    """A list in Python notation; [] where the column is not there. Nothing is executed."""
    text = row.get(name)
    if not text:
        return []
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        found = None
    if not isinstance(found, list | tuple):
        raise ValueError(f"column '{name}' is {text[:60]!r}, expected a list")
    return list(found)
