"""From interactions to sequences: repeats, k-core, one total order, leave-one-out splits.

Interactions are polars tables with the columns user, item, timestamp (and any others). The order of a user's
interactions is (timestamp, row), where `row` is the position in the input: same-day ties, which are common in review
data, break by input order and never by a hash.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import polars as pl


def in_order(interactions: pl.DataFrame) -> pl.DataFrame:
    """Sorted by (user, timestamp, row): the one total order of the project."""
    return interactions.sort("user", "timestamp", "row", maintain_order=True)


def drop_repeats(interactions: pl.DataFrame) -> pl.DataFrame:
    """The first interaction of every (user, item), in the total order.

    >>> table = pl.DataFrame({"user": [1, 1, 1], "item": [7, 8, 7], "timestamp": [3, 2, 1], "row": [0, 1, 2]})
    >>> drop_repeats(table)["row"].to_list()
    [2, 1]
    """
    return in_order(interactions).unique(["user", "item"], keep="first", maintain_order=True)


def k_core(interactions: pl.DataFrame, user_k: int, item_k: int) -> pl.DataFrame:
    """The largest part in which every user has at least `user_k` and every item at least `item_k` interactions.

    Each pass drops the rows of all users and items below their threshold at once, until none is left to drop; rows
    keep their order. The result can be empty.
    """
    *_, core = core_passes(interactions, user_k, item_k)
    return core


def core_passes(interactions: pl.DataFrame, user_k: int, item_k: int) -> Iterator[pl.DataFrame]:
    """What is left before the first pass of the k-core and after each one."""
    yield interactions
    while True:
        enough = (pl.len().over("user") >= user_k) & (pl.len().over("item") >= item_k)
        kept = interactions.filter(enough)
        if len(kept) == len(interactions):
            return
        interactions = kept
        yield interactions


def counts(interactions: pl.DataFrame) -> tuple[int, int, int]:
    """(users, items, interactions)."""
    return interactions["user"].n_unique(), interactions["item"].n_unique(), len(interactions)


class Splits(NamedTuple):
    """One row per target: `end` is the target's place in its user's sequence, its history is what stands before."""

    user: np.ndarray
    end: np.ndarray
    split: np.ndarray


MIN_TESTED = 3  # one item of history, one to validate on, one to test on


def leave_one_out(lengths: np.ndarray) -> Splits:
    """The last item of each user is for test, the one before for validation, every earlier one but the first trains.

    Users with fewer than three interactions are not tested: all their items train.

    >>> leave_one_out(np.array([4, 2])).split.tolist()
    ['train', 'valid', 'test', 'train']
    """
    targets = np.maximum(lengths - 1, 0)
    user = np.repeat(np.arange(len(lengths)), targets)
    end = np.arange(len(user)) - np.repeat(np.cumsum(targets) - targets, targets) + 1
    left = lengths[user] - end
    tested = lengths[user] >= MIN_TESTED
    split = np.where(tested & (left == 1), "test", np.where(tested & (left == 2), "valid", "train"))
    return Splits(user, end, split)
