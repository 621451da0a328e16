"""What every source returns: interactions with fixed columns, items with text, and a fixed split where it has one.

User and item ids are interned while they are read (polars categoricals), so a log costs four bytes an id.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import polars as pl

from ilrec_cli.datasets._blocks import BLOCK_MB
from ilrec_cli.datasets._faults import Faults

# user and item are categoricals of the ids as the user knows them; row is the place in the input, which breaks ties.
INTERACTIONS = ("user", "item", "timestamp", "rating", "row")
ITEMS: dict[str, Any] = {"raw_id": pl.String, "source_id": pl.String, "title": pl.String, "description": pl.String,
                         "brand": pl.String, "categories": pl.List(pl.String)}  # fmt: skip


class Raw(NamedTuple):
    """`interactions` may have a column `split` ("train", "valid", "test", or null: shown as history only).

    `notes` counts what the source left out. `candidates` (test event's user, candidate item ids) come from sources that publish them.
    """

    interactions: pl.DataFrame
    items: pl.DataFrame
    candidates: pl.DataFrame | None = None
    notes: dict[str, int] = {}  # noqa: RUF012 - of a NamedTuple, never changed


@dataclass(frozen=True)
class Reading:
    """How raw files are read: what becomes of bad lines, and how much is in memory at a time."""

    faults: Faults = field(default_factory=Faults)
    block: int = BLOCK_MB << 20  # bytes of decompressed text


def interned(tables: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """One table of interactions from blocks with user, item (text), timestamp and rating; rows numbered in order."""
    users, items = (pl.Categorical(pl.Categories.random()) for _ in range(2))
    parts = [_typed(table, users, items) for table in tables]
    if not parts:
        empty = {"user": pl.String, "item": pl.String, "timestamp": pl.Int64, "rating": pl.Float32}
        parts = [_typed(pl.DataFrame(schema=empty), users, items)]
    return pl.concat(parts, rechunk=True).with_columns(row=pl.int_range(pl.len(), dtype=pl.Int64))


def without_text(raw_ids: pl.Series, items: pl.DataFrame | None = None) -> pl.DataFrame:
    """One row for every interned id, joined with what is known of it; nulls where nothing is."""
    known = pl.DataFrame(schema=ITEMS) if items is None else items
    ids = pl.DataFrame({"raw_id": raw_ids.unique(maintain_order=True).cast(pl.String)})
    return ids.join(known, on="raw_id", how="left", maintain_order="left", validate="1:1").select(*ITEMS)


def _typed(table: pl.DataFrame, users: Any, items: Any) -> pl.DataFrame:
    others = [name for name in table.columns if name not in INTERACTIONS]
    return table.select(
        pl.col("user").cast(users), pl.col("item").cast(items), pl.col("timestamp").cast(pl.Int64),
        pl.col("rating").cast(pl.Float32), *others,
    )  # fmt: skip
