"""From interactions to sequences: one total order, repeats, k-core.

The order of a user's interactions is (timestamp, place in the input): same-day ties, which are common in review data,
break by input order and never by a hash. N interactions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import polars as pl

Counts = tuple[int, int, int]  # users, items, interactions
Rows = np.ndarray | None  # places of what is left of a part; None: all of it
Codes = Callable[[], tuple[np.ndarray, np.ndarray]]  # user_N, item_N of a part: small whole numbers


def order(user_N: np.ndarray, time_N: np.ndarray) -> np.ndarray:
    """Places in the order of (user, time, place): the one total order of the project.

    >>> order(np.array([1, 0, 1]), np.array([5, 9, 5])).tolist()
    [1, 0, 2]
    """
    if not len(user_N):
        return np.zeros(0, dtype=np.int64)
    first_user, first = int(user_N.min()), int(time_N.min())
    users, span = int(user_N.max()) - first_user + 1, int(time_N.max()) - first + 1
    if users * span >= 2**63:
        return np.lexsort((time_N, user_N))
    key_N = (user_N.astype(np.int64) - first_user) * span + (time_N - first)  # one key sorts faster than two
    return np.argsort(key_N, kind="stable")


def first_of_pairs(user_N: np.ndarray, item_N: np.ndarray) -> np.ndarray:
    """True for the first interaction of every (user, item).

    >>> first_of_pairs(np.array([1, 1, 1]), np.array([7, 8, 7])).tolist()
    [True, True, False]
    """
    pair_N = user_N.astype(np.int64) * (int(item_N.max(initial=0)) + 1) + item_N
    return pl.Series(pair_N).is_first_distinct().to_numpy()


def k_core(interactions: pl.DataFrame, user_k: int, item_k: int) -> pl.DataFrame:
    """The largest part in which every user has at least `user_k` and every item at least `item_k` interactions.

    Each pass drops the rows of all users and items below their threshold at once, until none is left to drop; rows
    keep their order. The result can be empty. Ids may be text, interned text or whole numbers.
    """
    user_N, item_N = codes(interactions["user"]), codes(interactions["item"])
    *_, ((rows,), _) = core_passes([lambda: (user_N, item_N)], user_k, item_k)
    return interactions if rows is None else interactions[rows]


def core_passes(parts: Sequence[Codes], user_k: int, item_k: int) -> Iterator[tuple[list[Rows], Counts]]:
    """(rows that are left of each part, counts in all) before the first pass of the k-core and after each one.

    Users of different parts are different, whatever their codes; items are the same. Parts are read once a pass.
    """
    rows: list[Rows] = [None] * len(parts)
    per_user: list[np.ndarray] = []
    per_item = np.zeros(0, dtype=np.int64)
    for read in parts:
        user_N, item_N = read()
        per_user.append(np.bincount(user_N))
        per_item = _plus(per_item, np.bincount(item_N))
    while True:
        users = sum(int(np.count_nonzero(each)) for each in per_user)
        yield list(rows), (users, int(np.count_nonzero(per_item)), int(per_item.sum()))
        good_item = per_item >= item_k
        if all(_enough(each, user_k) for each in per_user) and _enough(per_item, item_k):
            return
        per_item = np.zeros_like(per_item)
        for place, read in enumerate(parts):
            user_N, item_N = _left(read(), rows[place])
            keep_N = (per_user[place] >= user_k)[user_N]
            keep_N &= good_item[item_N]
            kept = np.flatnonzero(keep_N)
            before = rows[place]
            rows[place] = kept if before is None else before[kept]
            per_user[place] = np.bincount(user_N[kept], minlength=len(per_user[place]))
            per_item += np.bincount(item_N[kept], minlength=len(per_item))


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


def _left(part: tuple[np.ndarray, np.ndarray], rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    user_N, item_N = part
    return (user_N, item_N) if rows is None else (user_N[rows], item_N[rows])


def _enough(counts: np.ndarray, least: int) -> bool:
    """Whether all that occur occur often enough."""
    return bool(((counts == 0) | (counts >= least)).all())


def _plus(some: np.ndarray, more: np.ndarray) -> np.ndarray:
    """The sum of counts, the shorter ones continued by zeros."""
    small, large = sorted((some, more), key=len)
    total = large.copy()
    total[: len(small)] += small
    return total
