"""Reads rows of history and target: sequences are the union of what all rows of a user say."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from ilrec_cli.datasets import _csv_lines, _files, _raw, _text, minionerec
from ilrec_cli.datasets._raw import Raw, Reading
from ilrec_cli.errors import UserError

ASINS = ("item_asin", "history_item_asin", "item_asins")


def load(folder: Path, dataset: str, config: minionerec.Config, reading: Reading) -> Raw:
    """Interactions with the published split; items known only from histories have none."""
    rows: list[dict[str, Any]] = []
    for split in minionerec.SPLITS:
        path = getattr(config, split) or _files.named(minionerec.row_files(folder, split), folder, dataset, split)
        if path is None:
            raise UserError(f"{folder}: no rows of the {split} split; expected {minionerec.EXPECTS}")
        for line, row in _rows(path, reading):
            try:
                rows += _events(row, split)
            except ValueError as error:
                reading.faults.report(path, line, str(error), str(row))
    table = pl.DataFrame(rows, schema={"user": pl.String, "item": pl.String, "timestamp": pl.Int64, "rating": pl.Float32,
                                       "split": pl.String, "source_id": pl.String, "title": pl.String})  # fmt: skip
    # A target is also in later histories: one interaction, with the split it is a target of.
    table = table.sort(pl.col("split").is_null(), maintain_order=True)
    unique = table.unique(["user", "item", "timestamp"], keep="first", maintain_order=True)
    interactions = _raw.interned([unique.select("user", "item", "timestamp", "rating", "split")])
    text = table.sort(pl.col("title") == "", maintain_order=True).unique("item", keep="first", maintain_order=True)
    known = text.select(raw_id="item", source_id="source_id", title="title").with_columns(
        pl.lit("").alias("description"),
        pl.lit("").alias("brand"),
        pl.lit([], dtype=pl.List(pl.String)).alias("categories"),
    )
    return Raw(interactions, _raw.without_text(interactions["item"], known))


def _rows(path: Path, reading: Reading) -> Iterator[tuple[int, dict[str, Any]]]:
    header = next(iter(_csv_lines.rows_of(_files.first_line(path), ",")), [])
    for name in ("user_id", "item_id", "history_item_id"):
        if name not in header or len(set(header)) < len(header):
            raise UserError(f"{path}:1: expected different columns, '{name}' among them; there are {', '.join(header)}")
    about = _csv_lines.Format(",", dict.fromkeys(header, pl.String), ("user_id", "item_id"), header=True)
    return _csv_lines.rows(path, about, reading.faults, size=reading.block)


def _events(row: dict[str, Any], split: str) -> list[dict[str, Any]]:
    """The row's history, which has no split, and its target; `ValueError` says what is wrong with the row."""
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
    return [{"user": row["user_id"], "item": _id(asin), "timestamp": int(_number(time)), "split": label,
             "source_id": _id(number), "rating": None if rating in (None, "") else _number(rating), "title": _text.plain(title)}
            for (number, asin, title, time, rating), label in zip(every, labels, strict=True)]  # fmt: skip


def _id(value: Any) -> str:
    if isinstance(value, int | str) and not isinstance(value, bool) and str(value):
        return str(value)
    raise ValueError(f"{str(value)[:60]!r} is no item id")


def _number(value: Any) -> float:
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.inf
    if not math.isfinite(found) or abs(found) >= _csv_lines.LARGEST:
        raise ValueError(f"{str(value)[:60]!r} is no number")
    return found


def _list(row: dict[str, Any], name: str) -> list[Any]:
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
