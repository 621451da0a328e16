"""A log of interactions as it was read: in the order of the input, part by part, ids as small numbers.

Ids are interned while they are read, so an interaction costs 20 bytes; parts that do not fit in memory lie in files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from ilrec_cli.datasets import _times
from ilrec_cli.datasets._times import Clock
from ilrec_cli.spill import Kept, Spill

PIECE = 1 << 21  # interactions of a part
EMPTY: Any = {"user": pl.String, "item": pl.String, "timestamp": pl.Int64, "rating": pl.Float32}


class Ids(NamedTuple):
    """The name of every code, and how many interactions have it."""

    names: pl.Series
    counts: np.ndarray


class Log:
    """Interactions with the columns user, item (codes), timestamp, rating and, where the source has one, split."""

    def __init__(self, parts: list[Kept], users: Ids, items: Ids, clock: Clock, *, split: bool):
        self.users, self.items, self.clock, self.has_split = users, items, clock, split
        self._parts = parts

    def __len__(self) -> int:
        return int(self.users.counts.sum())

    def take(self) -> Iterator[pl.DataFrame]:
        """The parts in order, each forgotten when it is given."""
        while self._parts:
            yield self.clock.whole(self._parts.pop(0).take())

    def table(self) -> pl.DataFrame:
        """Everything in one table with ids as text and the place in the input, `row`: for small logs and tests."""
        parts = [self.clock.whole(part.load()) for part in self._parts]
        every = pl.concat(parts).with_columns(row=pl.int_range(pl.len(), dtype=pl.Int64))
        names = {name: ids.names.gather(every[name]) for name, ids in (("user", self.users), ("item", self.items))}
        return every.with_columns(**names)


def interned(tables: Iterable[pl.DataFrame], spill: Spill, *, timed: bool = True) -> Log:
    """A log from blocks with user, item (text), perhaps rating and split, and timestamp unless times are places (not `timed`)."""
    users, items = _Interner(), _Interner()
    parts: list[Kept] = []
    seen, rows, split = _times.Seen(), 0, False
    for block in _joined(tables, timed=timed):
        codes = {"user": users.codes(block["user"]), "item": items.codes(block["item"])}
        time = block["timestamp"] if timed else pl.Series(np.arange(rows, rows + len(block)))
        seen.add(time)
        parts.append(spill.keep(block.with_columns(timestamp=time, **codes)))
        split, rows = "split" in block.columns, rows + len(block)
    return Log(parts, users.ids(), items.ids(), seen.clock(), split=split)


class _Interner:
    """Codes of texts, the same for the same text; 0, 1, 2, ... in the order in which they turn up."""

    def __init__(self) -> None:
        self._kind = pl.Categorical(pl.Categories.random())
        # polars forgets the codes of categories when no column uses them, and would give them out again.
        self._anchor = pl.Series([""]).cast(self._kind)
        self._place = np.zeros(0, dtype=np.int32)  # our code of each of polars', -1: not seen
        self._names: list[pl.Series] = []
        self._counts = np.zeros(0, dtype=np.int64)

    def codes(self, texts: pl.Series) -> pl.Series:
        known = texts.cast(self._kind)
        code = known.to_physical().to_numpy()
        self._grow(int(code.max()) + 1 if len(code) else 0)
        new = self._place[code] < 0
        if new.any():
            first = known.filter(pl.Series(new)).unique(maintain_order=True)
            start = len(self._counts)
            self._place[first.to_physical().to_numpy()] = np.arange(start, start + len(first), dtype=np.int32)
            self._names.append(first.cast(pl.String))
            self._counts = np.append(self._counts, np.zeros(len(first), dtype=np.int64))
        found = self._place[code]
        self._counts += np.bincount(found, minlength=len(self._counts))
        return pl.Series(found)

    def ids(self) -> Ids:
        return Ids(pl.concat([pl.Series(dtype=pl.String), *self._names]).alias("raw_id"), self._counts)

    def _grow(self, size: int) -> None:
        if size > len(self._place):
            larger = np.full(max(size, 2 * len(self._place)), -1, dtype=np.int32)
            larger[: len(self._place)] = self._place
            self._place = larger


def _joined(tables: Iterable[pl.DataFrame], *, timed: bool) -> Iterator[pl.DataFrame]:
    """Blocks of about `PIECE` rows; at least one, times of one type in each."""
    waiting: list[pl.DataFrame] = []
    rows, given = 0, False
    for table in tables:
        waiting.append(table)
        rows += len(table)
        if rows >= PIECE:
            yield _one(waiting, timed=timed)
            waiting, rows, given = [], 0, True
    if waiting or not given:
        yield _one(waiting or [pl.DataFrame(schema=EMPTY)], timed=timed)


def _one(tables: Sequence[pl.DataFrame], *, timed: bool) -> pl.DataFrame:
    if timed and any(table["timestamp"].dtype.is_nested() for table in tables):
        tables = [table.with_columns(_times.stamps(table["timestamp"])) for table in tables]
    named = [name for name in (*EMPTY, "split") if name in tables[0].columns and (timed or name != "timestamp")]
    every = pl.concat([table.select(named) for table in tables], rechunk=True)
    rating = pl.col("rating") if "rating" in named else pl.lit(None)
    return every.with_columns(rating=rating.cast(pl.Float32))
