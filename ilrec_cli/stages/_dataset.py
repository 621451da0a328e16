"""From what a source read to numbered tables: filters in their order, then numbers by sorted id. N interactions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from ilrec_cli import sequences
from ilrec_cli.datasets._raw import Raw
from ilrec_cli.errors import UserError
from ilrec_cli.settings import Preprocess
from ilrec_cli.spill import Spill
from ilrec_cli.stages import _partitions
from ilrec_cli.stages._partitions import Part
from ilrec_cli.stages._sieve import Sieve

Settings = dict[str, Any]


class Filtered(NamedTuple):
    """Parts in the total order; the sorted ids that their ranks mean; what each filter dropped; counts at each pass."""

    parts: list[Part]
    users: pl.Series
    items: pl.Series
    dropped: dict[str, int]
    passes: list[sequences.Counts]


class Block(NamedTuple):
    """All interactions of some users, numbered: `table` has user, item, timestamp, rating (and split), in order."""

    first: int  # number of the first user
    lengths: np.ndarray  # interactions of each user
    table: pl.DataFrame


class Numbered(NamedTuple):
    """Users and items that are left, numbered by sorted raw id, and the parts with those numbers in place of ranks."""

    parts: list[Part]
    users: pl.DataFrame
    items: pl.DataFrame
    user_number: np.ndarray  # of every rank
    item_number: np.ndarray

    def blocks(self) -> Iterator[Block]:
        """The parts in order, numbered; users of one block follow those of the one before."""
        first = 0
        for part in self.parts:
            table = part.table()
            user_N = self.user_number[table["user"].to_numpy()]
            if len(user_N):
                numbered = table.with_columns(user=user_N, item=self.item_number[table["item"].to_numpy()])
                lengths = np.bincount(user_N - first)
                yield Block(first, lengths, numbered)
                first += len(lengths)

    def times(self) -> Iterator[np.ndarray]:
        """The times of all interactions, part by part."""
        for part in self.parts:
            yield part.table("timestamp")["timestamp"].to_numpy()


def filtered(raw: Raw, config: Preprocess, settings: Settings, spill: Spill) -> Filtered:
    """Rating, dates, repeats, k-core; `UserError` where nothing is left, with the counts at every pass."""
    total = len(raw.interactions)
    users, items = _partitions.ranks(raw.interactions.users), _partitions.ranks(raw.interactions.items)
    sieve, once = Sieve(config, raw.clock()), settings["repeats"] == "first"
    parts = list(_partitions.ordered(raw.interactions, users, items, sieve, spill, repeats=not once))
    dropped = sieve.dropped
    passed = total - sum(dropped.values())
    if not passed:
        raise UserError(f"nothing is left: the filters dropped all {_counted(total)} ({_listed(dropped)})")
    passes: list[sequences.Counts] = []
    rows: list[sequences.Rows] = []
    codes = [part.codes for part in parts]
    for rows, counted in sequences.core_passes(codes, settings["user_k"], settings["item_k"]):  # noqa: B007
        passes.append(counted)
    for part, left in zip(parts, rows, strict=True):
        part.rows = left
    if once:
        dropped["repeated interactions"] = passed - passes[0][2]
    dropped["interactions outside the k-core"] = passes[0][2] - passes[-1][2]
    if not passes[-1][2]:
        raise UserError(_empty_core(settings, passes))
    return Filtered(parts, users.names, items.names, dropped, passes)


def _counted(interactions: int) -> str:
    return f"{interactions:,} interaction{'s' * (interactions != 1)}"


def _empty_core(settings: Settings, passes: list[sequences.Counts]) -> str:
    listed = "; ".join(f"{users:,} users, {items:,} items, {_counted(count)}" for users, items, count in passes)
    core = f"user_k {settings['user_k']}, item_k {settings['item_k']}"
    return f"nothing is left after the k-core ({core}). Pass by pass: {listed}. Lower --user-k or --item-k"


def limit_users(found: Filtered, config: Preprocess) -> None:
    """Leave the interactions of `limit_users` users, drawn by the seed from the users sorted by id; count the others."""
    left_out = 0
    if config.limit_users is not None:
        present = _present([part.table("user")["user"].to_numpy() for part in found.parts], len(found.users))
        users = np.flatnonzero(present)
        chosen = np.zeros(len(found.users), dtype=bool)
        chosen[users[np.random.default_rng(config.seed).permutation(len(users))[: config.limit_users]]] = True
        for part in found.parts:
            keep_N = chosen[part.table("user")["user"].to_numpy()]
            left_out += int((~keep_N).sum())
            part.only(keep_N)
    found.dropped["interactions of users that --limit-users left out"] = left_out


def numbered(found: Filtered, raw: Raw) -> Numbered:
    """Number the users and items that are left by sorted raw id; items without interactions go.

    Items that are offered as candidates stay.
    """
    parts, names, place = found.parts, found.items, np.arange(len(found.items), dtype=np.int32)
    offered = pl.Series(dtype=pl.String)
    if raw.candidates is not None:
        offered = raw.candidates["items"].explode().unique()
        names = pl.concat([found.items, offered]).unique().sort()
        place = names.search_sorted(found.items).to_numpy().astype(np.int32)
    user_there = _present((part.table("user")["user"].to_numpy() for part in parts), len(found.users))
    item_there = _present((place[part.table("item")["item"].to_numpy()] for part in parts), len(names))
    item_there |= names.is_in(offered.implode()).to_numpy() if len(offered) else False
    users, user_number = _dense(found.users, user_there)
    items, item_number = _dense(names, item_there)
    known = raw.items
    found.dropped["items that no remaining interaction has"] = len(known) - int(
        known["raw_id"].is_in(items.implode()).sum()
    )
    number = pl.int_range(pl.len(), dtype=pl.Int32)
    text = items.to_frame("raw_id").select(number.alias("item"), "raw_id").join(
        known, on="raw_id", how="left", maintain_order="left", validate="1:1"
    ).with_columns(
        pl.col("source_id").fill_null(pl.col("raw_id")),
        pl.col("title", "description", "brand").fill_null(""),
        pl.col("categories").fill_null([]),
    )  # fmt: skip
    people = users.to_frame("raw_id").select(number.alias("user"), "raw_id")
    return Numbered(parts, people, text, user_number, item_number[place])


def _present(ranks: Iterator[np.ndarray] | list[np.ndarray], size: int) -> np.ndarray:
    """True for the ranks that occur."""
    there = np.zeros(size, dtype=bool)
    for rank_N in ranks:
        there[rank_N] = True
    return there


def _dense(names: pl.Series, there: np.ndarray) -> tuple[pl.Series, np.ndarray]:
    """The names that stay, and the number of every rank among them."""
    return names.filter(pl.Series(there)), (np.cumsum(there) - 1).astype(np.int32)


def _listed(dropped: dict[str, int]) -> str:
    return "; ".join(f"{count:,} {what}" for what, count in dropped.items() if count)
