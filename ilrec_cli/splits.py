"""Which places of a user's sequence are targets, and of which split: leave-one-out, by ratio, by time, as published.

A target is a place with at least one item before it. U users, in order; a user's training part is the places
`train_from` to `train_to` (not included) of the sequence: models learn to predict the items there from what stands
before them, and count them as training interactions. Everything later is held out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

NAMES = ("train", "valid", "test")
TRAIN, VALID, TEST = range(3)
BINS = 4096
MIN_TESTED = 3  # one item of history, one to validate on, one to test on


class OrderError(ValueError):
    """A user has a training target after one that is held out."""

    def __init__(self, user: int):
        super().__init__(f"user {user} has a training target after one that is held out")
        self.user = user


class Splits(NamedTuple):
    """One row per target: `end` is its place in its user's sequence, `split` an index of NAMES; and the training parts."""

    user: np.ndarray
    end: np.ndarray
    split: np.ndarray
    train_from: np.ndarray
    train_to: np.ndarray


def leave_one_out(lengths: np.ndarray) -> Splits:
    """The last item of each user is for test, the one before for validation, every earlier one but the first trains.

    Users with fewer than three interactions are not tested: all their items train.

    >>> leave_one_out(np.array([4, 2])).split.tolist()
    [0, 1, 2, 0]
    """
    tested = (lengths >= MIN_TESTED).astype(np.int64)
    return _prefixes(lengths, lengths - 2 * tested, lengths - tested)


def by_ratio(lengths: np.ndarray, ratio: tuple[float, float, float]) -> Splits:
    """The first share of each user's items trains, the next is for validation, the last for test.

    Shares are rounded down in favour of training; a user with at least three items always gives one target to test and
    one to validation (where their share is not 0), like RecBole's split by ratio.
    """
    valid, test = (_share(lengths, part / sum(ratio)) for part in ratio[1:])
    return _prefixes(lengths, lengths - valid - test, lengths - test)


def by_time(lengths: np.ndarray, time: np.ndarray, valid_from: float, test_from: float) -> Splits:
    """Targets before `valid_from` train, those from `test_from` on are for test: one clock for all users.

    `time` is that of every interaction, users one after another, rising for each user.
    """
    user = np.repeat(np.arange(len(lengths)), lengths)
    before_valid = np.bincount(user[time < valid_from], minlength=len(lengths))
    before_test = np.bincount(user[time < test_from], minlength=len(lengths))
    return _prefixes(lengths, before_valid, before_test)


def times_by_ratio(times: Callable[[], Iterator[np.ndarray]], ratio: tuple[float, float, float]) -> tuple[int, int]:
    """(valid_from, test_from): the times at which the shares of all interactions are used up.

    `times` gives them part by part, as often as asked.
    """
    total = sum(len(part) for part in times())
    if not total:
        return 0, 0
    ends = [(int(part.min()), int(part.max())) for part in times() if len(part)]
    low, high = min(first for first, _ in ends), max(last for _, last in ends)
    places = np.floor(np.cumsum(ratio)[:2] / sum(ratio) * total + 1e-9).astype(np.int64).tolist()
    valid_from, test_from = (_nth(times, place, low, high) if place < total else high + 1 for place in places)
    return valid_from, test_from


def _nth(times: Callable[[], Iterator[np.ndarray]], place: int, low: int, high: int) -> int:
    """The time at a place (from 0) of all times in order, which lie from `low` to `high`; nothing is sorted.

    Each round counts the times of `BINS` equal stretches and goes on in the one that holds the place.
    """
    while low < high:
        width = -(-(high - low + 1) // BINS)
        counts = np.zeros(BINS, dtype=np.int64)
        for part in times():
            inside = part[(part >= low) & (part <= high)]
            # Differences of 64-bit numbers can need 64 bits themselves.
            stretch = (inside.view(np.uint64) - np.uint64(low % 2**64)) // np.uint64(width)
            counts += np.bincount(stretch.astype(np.int64), minlength=BINS)
        found = int(np.searchsorted(np.cumsum(counts), place, side="right"))
        place -= int(counts[:found].sum())
        low, high = low + found * width, min(high, low + (found + 1) * width - 1)
    return low


def given(lengths: np.ndarray, label: np.ndarray) -> Splits:
    """Splits as published: `label` of every interaction is an index of NAMES, or -1 for history that is no target.

    A user's labels must rise (train, valid, test); `OrderError` has the first user whose do not.
    """
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    user = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(user)) - offsets[user]
    named = label >= 0
    last = np.maximum.accumulate(np.where(named, user * 3 + label, 0)) if len(label) else label
    falls = named & (last > user * 3 + label)
    if falls.any():
        raise OrderError(int(user[falls][0]))
    target = named & (place >= 1)
    is_train = target & (label == TRAIN)
    train_to = np.zeros(len(lengths), dtype=np.int64)
    np.maximum.at(train_to, user[is_train], place[is_train] + 1)
    train_from = train_to.copy()
    np.minimum.at(train_from, user[is_train], place[is_train])
    return Splits(user[target], place[target], label[target].astype(np.int8), train_from, train_to)


def _prefixes(lengths: np.ndarray, train_to: np.ndarray, test_from: np.ndarray) -> Splits:
    """Targets before `train_to` train, before `test_from` are for validation, the rest for test."""
    targets = np.maximum(lengths - 1, 0)
    user = np.repeat(np.arange(len(lengths)), targets)
    end = np.arange(len(user)) - np.repeat(np.cumsum(targets) - targets, targets) + 1
    split = (end >= train_to[user]).astype(np.int8) + (end >= test_from[user])
    return Splits(user, end, split.astype(np.int8), np.zeros(len(lengths), dtype=np.int64), train_to)


def _share(lengths: np.ndarray, part: float) -> np.ndarray:
    if part <= 0:
        return np.zeros(len(lengths), dtype=np.int64)
    whole = np.floor(lengths * part + 1e-9).astype(np.int64)
    return np.where(lengths >= MIN_TESTED, np.maximum(whole, 1), 0)
