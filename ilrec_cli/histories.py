"""Users' sequences as flat arrays: histories of events, and windows for training on all positions.

Shapes: U users, E events, B rows, T history items. Histories are right-padded with -1, most recent item last.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Sequences(NamedTuple):
    """Items of all users, one after another: user u's are items[offsets[u]:offsets[u + 1]]."""

    items: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        """Number of users."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)


class Windows(NamedTuple):
    """Stretches of training sequences: items[start:stop] of the flat array; targets are items[first:stop]."""

    start: np.ndarray
    first: np.ndarray
    stop: np.ndarray

    def __len__(self) -> int:
        return len(self.start)

    @property
    def lengths(self) -> np.ndarray:
        return self.stop - self.start

    def take(self, index: np.ndarray) -> Windows:
        return Windows(self.start[index], self.first[index], self.stop[index])


def histories(sequences: Sequences, user_E: np.ndarray, end_E: np.ndarray, max_history: int) -> np.ndarray:
    """history_ET: the last `max_history` items before place `end` of each user's sequence."""
    length = np.minimum(end_E, max_history)
    return gather_runs(sequences.items, sequences.offsets[user_E] + end_E - length, length)


def targets(sequences: Sequences, user_E: np.ndarray, end_E: np.ndarray) -> np.ndarray:
    """target_E: the item at place `end` of each user's sequence."""
    return sequences.items[sequences.offsets[user_E] + end_E]


def gather_runs(flat: np.ndarray, start_B: np.ndarray, length_B: np.ndarray) -> np.ndarray:
    """Rows flat[start:start + length], right-padded with -1 to the longest."""
    column = np.arange(int(length_B.max()) if len(length_B) else 0)
    inside = column < length_B[:, None]
    return np.where(inside, flat[np.where(inside, start_B[:, None] + column, 0)], -1)


def training_windows(
    sequences: Sequences, train_length_U: np.ndarray, max_history: int, train_from_U: np.ndarray | None = None
) -> Windows:
    """Windows in which every training target is one exactly once.

    Targets are each of a user's first `train_length` items but the very first, or those from place `train_from` on.
    A window holds at most `max_history` + 1 items. Users whose training part is longer get windows that overlap:
    each adds up to half a history of targets, so that those see between half and all of `max_history` predecessors.
    """
    stride = max(1, (max_history + 1) // 2)
    user = np.flatnonzero(train_length_U >= 2)
    length = train_length_U[user]
    extra = np.maximum(0, -(-(length - max_history - 1) // stride))  # windows after the first
    row = np.repeat(np.arange(len(user)), extra + 1)
    nth = np.arange(len(row)) - np.repeat(np.cumsum(extra + 1) - (extra + 1), extra + 1)
    stop = np.minimum(length[row], max_history + 1 + nth * stride)
    start = np.maximum(0, stop - max_history - 1)
    first = np.where(nth == 0, 1, max_history + 1 + (nth - 1) * stride)
    if train_from_U is not None:
        first = np.maximum(first, train_from_U[user][row])
    base = sequences.offsets[user][row]
    return Windows(base + start, base + first, base + stop).take(np.flatnonzero(first < stop))
