"""From interactions to sequences: one total order, repeats, k-core.

Interactions are polars tables with the columns user, item, timestamp (and any others). The order of a user's
interactions is (timestamp, row), where `row` is the position in the input: same-day ties, which are common in review
data, break by input order and never by a hash.
"""

from __future__ import annotations

from collections.abc import Iterator

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
    ordered = in_order(interactions)
    item = codes(ordered["item"])
    pair = pl.Series(codes(ordered["user"]) * (int(item.max(initial=0)) + 1) + item)
    return ordered.filter(pair.is_first_distinct())


def k_core(interactions: pl.DataFrame, user_k: int, item_k: int) -> pl.DataFrame:
    """The largest part in which every user has at least `user_k` and every item at least `item_k` interactions.

    Each pass drops the rows of all users and items below their threshold at once, until none is left to drop; rows
    keep their order. The result can be empty. Ids may be text, interned text or whole numbers.
    """
    *_, (rows, _) = core_passes(interactions, user_k, item_k)
    return interactions if rows is None else interactions[rows]


Counts = tuple[int, int, int]  # users, items, interactions


def core_passes(interactions: pl.DataFrame, user_k: int, item_k: int) -> Iterator[tuple[np.ndarray | None, Counts]]:
    """(rows that are left, counts) before the first pass of the k-core and after each one; None: all rows."""
    user, item = codes(interactions["user"]), codes(interactions["item"])
    rows: np.ndarray | None = None
    while True:
        per_user, per_item = np.bincount(user), np.bincount(item)
        yield rows, (int(np.count_nonzero(per_user)), int(np.count_nonzero(per_item)), len(user))
        keep = (per_user >= user_k)[user]
        keep &= (per_item >= item_k)[item]
        if keep.all():
            return
        kept = np.flatnonzero(keep)
        user, item = user[kept], item[kept]
        rows = kept if rows is None else rows[kept]


def codes(ids: pl.Series) -> np.ndarray:
    """Small whole numbers, the same for the same id: for counting, not for order."""
    if ids.dtype == pl.String:
        ids = ids.cast(pl.Categorical(pl.Categories.random()))
    if isinstance(ids.dtype, pl.Categorical):  # == would compare the categories too
        ids = ids.to_physical()
    if not len(ids):
        return np.zeros(0, dtype=np.int64)
    numbers = ids.to_numpy().astype(np.int64, copy=False)
    low, high = int(numbers.min()), int(numbers.max())
    if high - low < 8 * len(numbers) + 1024:
        return numbers - low if low else numbers
    return ids.rank("dense").to_numpy().astype(np.int64) - 1


def counts(interactions: pl.DataFrame) -> Counts:
    """(users, items, interactions)."""
    return interactions["user"].n_unique(), interactions["item"].n_unique(), len(interactions)
