"""How sure a mean is, and a difference of two: bootstrap intervals, paired sign-flip tests, Holm's correction.

The unit that is drawn is the user: a user's events are not independent of one another. A mean over events is the ratio
of a sum and a count per user. Shapes: U users, C columns (metrics), G groups of events (slices), R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

RESAMPLES = 1000  # of a bootstrap
FLIPS = 10_000  # of a sign-flip test
LEVEL = 0.95
BLOCK = 2048  # users whose weights exist at a time
SLACK = 1e-9  # sums of the same numbers in another order are equal

# How often a user is drawn into a resample, for every 16-bit number: Poisson with mean 1.
_BOUNDS = np.cumsum([math.exp(-1) / math.factorial(times) for times in range(9)]) * 2**16
_WEIGHTS = np.searchsorted(_BOUNDS, np.arange(2**16) + 0.5).astype(np.float64)


class Sums(NamedTuple):
    """What means consist of: mean of column c = value[:, c].sum() / count[:, group[c]].sum()."""

    value_UC: np.ndarray
    count_UG: np.ndarray
    group_C: np.ndarray

    def means(self) -> np.ndarray:
        """NaN for a group without events."""
        return _ratio(self.value_UC.sum(0), self.count_UG.sum(0)[self.group_C])


class Difference(NamedTuple):
    """Of two paired means, with its interval and the two-sided p-value of no difference."""

    mean_C: np.ndarray
    low_C: np.ndarray
    high_C: np.ndarray
    p_C: np.ndarray


def per_user(user_E: np.ndarray, columns: Iterable[np.ndarray]) -> np.ndarray:
    """sum_UC of each column (a value per event) over the events of each user, users in ascending order."""
    known, place_E = np.unique(user_E, return_inverse=True)
    users = len(known)
    sums = [np.bincount(place_E, weights=column_E, minlength=users) for column_E in columns]
    return np.stack(sums, 1) if sums else np.zeros((users, 0))


def intervals(sums: Sums, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(low_C, high_C): percentile bootstrap over users, each drawn a Poisson number of times; NaN without events."""
    rng = np.random.default_rng(seed)
    value_RC = np.zeros((RESAMPLES, sums.value_UC.shape[1]))
    count_RG = np.zeros((RESAMPLES, sums.count_UG.shape[1]))
    for start in range(0, len(sums.value_UC), BLOCK):
        users = slice(start, start + BLOCK)
        size = (RESAMPLES, len(sums.value_UC[users]))
        weight_RU = _WEIGHTS[rng.integers(0, 2**16, size=size, dtype=np.uint16)]
        value_RC += weight_RU @ sums.value_UC[users]
        count_RG += weight_RU @ sums.count_UG[users]
    mean_RC = _ratio(value_RC, count_RG[:, sums.group_C])
    low_C, high_C = np.full((2, mean_RC.shape[1]), np.nan)
    some_C = ~np.isnan(mean_RC).all(0)
    tail = 50 * (1 - LEVEL)
    low_C[some_C], high_C[some_C] = np.nanpercentile(mean_RC[:, some_C], [tail, 100 - tail], axis=0)
    return low_C, high_C


def difference(one: Sums, other: Sums, seed: int = 0) -> Difference:
    """other - one, of the same users and events; p from flipping the signs of users' differences."""
    gap = Sums(other.value_UC - one.value_UC, one.count_UG, one.group_C)
    return Difference(gap.means(), *intervals(gap, seed), sign_flip(gap.value_UC, seed))


def sign_flip(gap_UC: np.ndarray, seed: int = 0) -> np.ndarray:
    """p_C: how often users' differences with random signs add up to as much as they do, in either direction.

    Exact (all signs) for so few users with a difference that there are no more than FLIPS ways; else estimated from
    FLIPS draws, the observed one counted among them, so that p is never 0.
    """
    gap_UC = gap_UC[(gap_UC != 0).any(1)]  # the sign of nothing is no matter
    users, seen_C = len(gap_UC), np.abs(gap_UC.sum(0))
    least_C = seen_C * (1 - SLACK) - SLACK
    if 2**users <= FLIPS:
        ways = np.arange(2**users)[:, None] >> np.arange(users) & 1
        return (np.abs((2.0 * ways - 1) @ gap_UC) >= least_C).mean(0)
    rng = np.random.default_rng(seed)
    reached_C = np.ones(gap_UC.shape[1])
    block = max(1, 4_000_000 // users)
    for start in range(0, FLIPS, block):
        sign_RU = 2.0 * rng.integers(0, 2, size=(min(block, FLIPS - start), users), dtype=np.int8) - 1
        reached_C += (np.abs(sign_RU @ gap_UC) >= least_C).sum(0)
    return reached_C / (FLIPS + 1)


def holm(p_K: np.ndarray) -> np.ndarray:
    """p-values of several comparisons, each made as large as the number of those tested beside it asks for.

    >>> holm(np.array([0.01, 0.04, 0.03])).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_K, kind="stable")
    adjusted = np.maximum.accumulate(p_K[order] * np.arange(len(p_K), 0, -1))
    return np.minimum(adjusted, 1.0)[np.argsort(order, kind="stable")]


def _ratio(value: np.ndarray, count: np.ndarray) -> np.ndarray:
    return np.divide(value, count, out=np.full(np.broadcast(value, count).shape, np.nan), where=count > 0)
