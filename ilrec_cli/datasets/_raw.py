"""What every source gets and returns: how to read, a log of interactions, items with plain text."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import polars as pl

from ilrec_cli.datasets import _text
from ilrec_cli.datasets._blocks import BLOCK_MB
from ilrec_cli.datasets._faults import Faults
from ilrec_cli.datasets._log import Log
from ilrec_cli.datasets._times import Clock
from ilrec_cli.spill import Spill

ITEMS: dict[str, Any] = {"raw_id": pl.String, "source_id": pl.String, "title": pl.String, "description": pl.String,
                         "brand": pl.String, "categories": pl.List(pl.String)}  # fmt: skip


class Raw(NamedTuple):
    """`interactions` may have a column `split` ("train", "valid", "test", or nothing: shown as history only).

    `ticks` are the timestamps' units a second, None where they are no times but places in a sequence. `candidates`
    (test event's user, candidate item ids) come from sources that publish them, and so does what users `said` (user,
    preferences, and queries for an item).
    """

    interactions: Log
    items: pl.DataFrame
    ticks: int | None = 1
    candidates: pl.DataFrame | None = None
    said: pl.DataFrame | None = None

    def clock(self) -> Clock | None:
        """How numbers and dates become the log's times; None where it has none."""
        return None if self.ticks is None else self.interactions.clock._replace(ticks=self.ticks)


@dataclass(frozen=True)
class Reading:
    """How raw files are read: bad lines, memory, text; `counts` are of what the source left out or changed."""

    faults: Faults = field(default_factory=Faults)
    block: int = BLOCK_MB << 20  # bytes of decompressed text
    clean: bool = True
    max_text: int | None = None  # characters
    counts: Counter[str] = field(default_factory=Counter)
    spill: Spill = field(default_factory=Spill)  # where the log waits

    def text(self, value: Any) -> str:
        """One line of text: plain if asked for, not longer than asked for."""
        found = _text.plain(value) if self.clean else _text.joined(value)
        if isinstance(value, str) and found != value:
            self.counts["texts made plain"] += 1
        if self.max_text is not None and len(found) > self.max_text:
            self.counts["texts cut to --max-text"] += 1
            return found[: self.max_text].rstrip()
        return found


def nameless(raw_ids: pl.Series) -> pl.DataFrame:
    """Items of which nothing but the id is known."""
    return pl.DataFrame({"raw_id": raw_ids}, schema_overrides=ITEMS).select(
        *(pl.col(name) if name == "raw_id" else pl.lit(None, dtype=kind).alias(name) for name, kind in ITEMS.items())
    )


def described(table: pl.DataFrame, columns: dict[str, str], wanted: pl.Series, reading: Reading) -> pl.DataFrame:
    """One row for every id of `wanted`, with the text that `table` has of it.

    `columns` says which of the table's columns holds raw_id, title, description, brand, categories, source_id. The
    first row of an item counts; others, and items that nobody interacted with, are counted and left out.
    """
    ids = pl.DataFrame({"raw_id": wanted})
    known = table.filter(pl.col(columns["raw_id"]).is_in(ids["raw_id"].implode()))
    reading.counts["descriptions of items without interactions"] += len(table) - len(known)
    once = known.unique(columns["raw_id"], keep="first", maintain_order=True)
    reading.counts["repeated descriptions of an item"] += len(known) - len(once)
    return ids.join(
        plain_items(once, columns, reading), on="raw_id", how="left", maintain_order="left", validate="1:1"
    ).select(*ITEMS)


def plain_items(table: Any, columns: dict[str, str], reading: Reading) -> pl.DataFrame:
    """The columns of ITEMS from a table (or a dict of columns) with one row an item."""
    ids = table[columns["raw_id"]]
    made: dict[str, Any] = {"raw_id": ids, "source_id": table[columns["source_id"]] if "source_id" in columns else ids}
    for name in ("title", "description", "brand"):
        made[name] = [reading.text(value) for value in table[columns[name]]] if name in columns else [""] * len(ids)
    lists = table[columns["categories"]] if "categories" in columns else [None] * len(ids)
    made["categories"] = [[text for text in map(reading.text, _text.parts(value)) if text] for value in lists]
    return pl.DataFrame(made, schema=ITEMS)
