"""The tables of preprocessed data, written block by block, with the figures of the card."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from ilrec_cli import artifacts, splits
from ilrec_cli.errors import UserError
from ilrec_cli.histories import Sequences, targets
from ilrec_cli.negatives import candidate_sets
from ilrec_cli.settings import Preprocess
from ilrec_cli.stages._dataset import Block, Numbered
from ilrec_cli.stages._splitter import Splitter

COLUMNS = ("user", "item", "timestamp", "rating")


class Totals:
    """What is known of the splits when the last block is written: per split, and of every user."""

    def __init__(self) -> None:
        self.interactions, self.events, self.tested = 0, 0, 0
        self.per_split = np.zeros(len(splits.NAMES), dtype=np.int64)
        self.train_from: list[np.ndarray] = []
        self.train_to: list[np.ndarray] = []
        self.last_event: list[np.ndarray] = []  # -1: the user has none
        self.last_item: list[np.ndarray] = []

    def add(self, block: Block, split: splits.Splits) -> None:
        last = np.full(len(block.lengths), -1, dtype=np.int64)
        np.maximum.at(last, split.user, self.events + np.arange(len(split.user)))
        self.last_event.append(last)
        self.last_item.append(block.table["item"].to_numpy()[np.cumsum(block.lengths) - 1])
        self.train_from.append(split.train_from)
        self.train_to.append(split.train_to)
        self.per_split += np.bincount(split.split, minlength=len(splits.NAMES))
        self.tested += len(np.unique(split.user[split.split == splits.TEST]))
        self.interactions += len(block.table)
        self.events += len(split.user)


def write(
    folder: Path, made: Numbered, splitter: Splitter, offered: pl.DataFrame | None, config: Preprocess
) -> tuple[dict[str, Any], int]:
    """Write all tables; the statistics, and how many of the candidate sets that the source publishes (`offered`) fit no
    target."""
    totals = Totals()
    rng = np.random.default_rng([config.seed, 1])  # a stream of its own: other draws do not move it
    drawn = offered is None and config.candidates > 0
    with ExitStack() as stack:
        names = ("interactions", "sequences", "splits", *(["candidates"] if drawn else []))
        add = {name: stack.enter_context(artifacts.table_writer(folder, name)) for name in names}
        for block in made.blocks():
            split = splitter(block)
            add["interactions"]({name: block.table[name].to_arrow() for name in COLUMNS})
            add["sequences"]({"user": block.first + np.arange(len(block.lengths)), "items": _items(block)})
            add["splits"](_split_rows(block, split, totals.events))
            if drawn:
                add["candidates"](_drawn_sets(block, split, totals.events, config.candidates, len(made.items), rng))
            totals.add(block, split)
    misfits = 0
    if offered is not None:
        sets, misfits = _published_sets(made, totals, offered)
        if sets is not None:
            artifacts.write_table(folder, "candidates", sets)
    people = {name: made.users[name].to_arrow() for name in made.users.columns}
    places = {"train_from": np.concatenate(totals.train_from), "train_to": np.concatenate(totals.train_to)}
    artifacts.write_table(folder, "users", {**people, **places})
    artifacts.write_table(folder, "items", {name: made.items[name].to_arrow() for name in made.items.columns})
    return _statistics(made, totals), misfits


def _statistics(made: Numbered, totals: Totals) -> dict[str, Any]:
    users, items, interactions = len(made.users), len(made.items), totals.interactions
    train, valid, test = totals.per_split.tolist()
    return {
        "users": users,
        "items": items,
        "interactions": interactions,
        "sparsity": 1 - interactions / (users * items),
        "mean_length": interactions / users,
        "training_targets": train,
        "validation_targets": valid,
        "test_targets": test,
        "users_without_test": users - totals.tested,
    }


def _items(block: Block) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum(block.lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), block.table["item"].to_arrow())


def _split_rows(block: Block, split: splits.Splits, first_event: int) -> dict[str, Any]:
    names = pa.DictionaryArray.from_arrays(pa.array(split.split), pa.array(splits.NAMES)).cast(pa.string())
    event = first_event + np.arange(len(split.user))
    return {"event": event, "user": block.first + split.user, "end": split.end, "split": names}


def _drawn_sets(
    block: Block, split: splits.Splits, first_event: int, negatives: int, items: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Candidate sets of every held-out event of a block."""
    held_out = np.flatnonzero(split.split != splits.TRAIN)
    offsets = np.concatenate([[0], np.cumsum(block.lengths)])
    sequences = Sequences(block.table["item"].to_numpy().astype(np.int64), offsets)
    user = split.user[held_out]
    target = targets(sequences, user, split.end[held_out])
    try:
        sets = candidate_sets(sequences, user, target, negatives, items, rng)
    except ValueError as error:
        raise UserError(f"--candidates {negatives}: {error}") from error
    return _set_rows(first_event + held_out, sets)


def _published_sets(made: Numbered, totals: Totals, offered: pl.DataFrame) -> tuple[dict[str, Any] | None, int]:
    """Candidates as the source gives them for the last event of each of its users, where the event's target is among
    them; None if no set is left. And how many fit no such event."""
    events = made.users.select(
        pl.col("raw_id").alias("user"),
        event=np.concatenate(totals.last_event),
        target=np.concatenate(totals.last_item).astype(np.int32),
    )
    numbers = made.items.select(pl.col("raw_id").alias("items"), "item")
    long = offered.join(events.filter(pl.col("event") >= 0), on="user", how="inner").explode("items")
    named = long.join(numbers, on="items", how="left", maintain_order="left")
    sets = named.group_by("event", maintain_order=True).agg("item", pl.col("target").first())
    table = sets.filter(pl.col("item").list.contains(pl.col("target"))).sort("event")
    misfits = len(offered) - len(table)
    if not len(table):
        return None, misfits
    if table["item"].list.len().n_unique() != 1:
        raise UserError("the source's candidate lists differ in length; they must all have as many names")
    items = table["item"].explode().to_numpy().reshape(len(table), -1)
    return _set_rows(table["event"].to_numpy(), items), misfits


def _set_rows(event_E: np.ndarray, sets_EC: np.ndarray) -> dict[str, Any]:
    offsets = np.arange(len(event_E) + 1, dtype=np.int32) * sets_EC.shape[1]
    lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(sets_EC.reshape(-1).astype(np.int32)))
    return {"event": event_E, "items": lists}
