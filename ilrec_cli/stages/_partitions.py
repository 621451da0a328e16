"""A log put in order: parts that each hold all interactions of some users, small enough to sort in memory.

How many parts there are depends on the log alone, so no setting of memory moves a byte of the result. Users and items
are ranks, places among the sorted ids of all that was read: numbers that stay in order when some of them go. N rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl

from ilrec_cli import sequences
from ilrec_cli.datasets._log import Ids, Log
from ilrec_cli.spill import Kept, Spill

PART = 1 << 22  # interactions
MOST_PARTS = 64

Sieve = Callable[[pl.DataFrame], pl.DataFrame]  # drops rows of a block, and counts them


class Ranks(NamedTuple):
    """Ids in sorted order: the rank of every code, the name and the number of interactions of every rank."""

    rank: np.ndarray
    names: pl.Series
    counts: np.ndarray


@dataclass
class Part:
    """All interactions of the users from rank `low` to `high` (not included), in the total order; `rows` are left."""

    low: int
    high: int
    kept: Kept
    rows: sequences.Rows = None

    def table(self, *columns: str) -> pl.DataFrame:
        found = self.kept.load(*columns)
        return found if self.rows is None else found[self.rows]

    def codes(self) -> tuple[np.ndarray, np.ndarray]:
        """(user_N, item_N) of all rows, users numbered from 0 in each part."""
        found = self.kept.load("user", "item")
        return found["user"].to_numpy() - self.low, found["item"].to_numpy()

    def only(self, keep_N: np.ndarray) -> None:
        """Leave some of the rows that are left."""
        self.rows = np.flatnonzero(keep_N) if self.rows is None else self.rows[keep_N]


def ranks(ids: Ids) -> Ranks:
    """Ids in sorted order."""
    order = ids.names.arg_sort().to_numpy()
    rank = np.empty(len(order), dtype=np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    return Ranks(rank, ids.names.gather(order), ids.counts[order])


def ordered(log: Log, users: Ranks, items: Ranks, sieve: Sieve, spill: Spill, *, repeats: bool) -> Iterator[Part]:
    """The parts, whose rows have passed the sieve; of repeated (user, item) only the first unless `repeats`."""
    starts = _starts(users.counts)
    waiting: list[list[Kept]] = [[] for _ in starts]
    for block in log.take():
        ranked = block.with_columns(
            user=users.rank[block["user"].to_numpy()], item=items.rank[block["item"].to_numpy()]
        )
        for part, rows in _routed(sieve(ranked), starts):
            waiting[part].append(spill.keep(rows))
    ends = [*starts[1:].tolist(), len(users.names)]
    for low, high, pieces in zip(starts.tolist(), ends, waiting, strict=True):
        table = pl.concat([piece.take() for piece in pieces], rechunk=True)
        table = table[sequences.order(table["user"].to_numpy(), table["timestamp"].to_numpy())]
        if not repeats:
            first_N = sequences.first_of_pairs(table["user"].to_numpy(), table["item"].to_numpy())
            table = table.filter(pl.Series(first_N)) if not first_N.all() else table
        yield Part(low, high, spill.keep(table))


def _starts(counts: np.ndarray) -> np.ndarray:
    """The first user of every part, so that parts hold about as many interactions each."""
    total = int(counts.sum())
    parts = min(MOST_PARTS, -(-total // PART))
    bounds = np.searchsorted(np.cumsum(counts), np.arange(1, parts) * (total / parts), side="left") + 1
    return np.unique(np.concatenate([[0], bounds[bounds < len(counts)]]))


def _routed(table: pl.DataFrame, starts: np.ndarray) -> Iterator[tuple[int, pl.DataFrame]]:
    """(part, its rows in their order) of a block."""
    if len(starts) == 1:
        yield 0, table
        return
    part_N = (np.searchsorted(starts, table["user"].to_numpy(), side="right") - 1).astype(np.uint8)
    place_N = np.argsort(part_N, kind="stable")
    ends = np.cumsum(np.bincount(part_N, minlength=len(starts)))
    for part, (low, high) in enumerate(zip(ends - np.diff(ends, prepend=0), ends, strict=True)):
        yield part, table[place_N[low:high]]
