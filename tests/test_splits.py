"""Splits against plain loops: what is a target, of which split, and which places are for training."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ilrec_cli import splits
from ilrec_cli.histories import Sequences, training_windows

lengths = st.lists(st.integers(1, 9), min_size=1, max_size=8)


def rows(found: splits.Splits) -> list[tuple[int, int, str]]:
    return [
        (u, e, splits.NAMES[s])
        for u, e, s in zip(found.user.tolist(), found.end.tolist(), found.split.tolist(), strict=True)
    ]


@given(lengths)
def test_leave_one_out_by_hand(lengths: list[int]) -> None:
    expected = []
    for user, length in enumerate(lengths):
        for end in range(1, length):
            left = length - 1 - end
            tested = length >= 3
            expected.append(
                (user, end, "test" if tested and left == 0 else "valid" if tested and left == 1 else "train")
            )
    found = splits.leave_one_out(np.array(lengths, dtype=np.int64))
    assert rows(found) == expected
    assert found.train_to.tolist() == [length - 2 if length >= 3 else length for length in lengths]


@given(lengths, st.sampled_from([(8, 1, 1), (6, 2, 2), (9, 0, 1), (1, 0, 0), (0.5, 0.25, 0.25)]))
def test_ratio_by_hand(lengths: list[int], ratio: tuple[float, float, float]) -> None:
    expected, train = [], []
    for user, length in enumerate(lengths):
        held = []
        for share in ratio[1:]:
            count = int(length * share / sum(ratio) + 1e-9)
            held.append(max(count, 1) if length >= 3 and share > 0 else 0 if share == 0 or length < 3 else count)
        valid, test = held
        train.append(length - valid - test)
        for end in range(1, length):
            name = "test" if end >= length - test else "valid" if end >= length - test - valid else "train"
            expected.append((user, end, name))
    found = splits.by_ratio(np.array(lengths, dtype=np.int64), ratio)
    assert rows(found) == expected
    assert found.train_to.tolist() == train


@given(lengths, st.integers(0, 20), st.integers(0, 20), st.integers(0, 1000))
def test_time_by_hand(lengths: list[int], first: int, second: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    times = [np.sort(rng.integers(20, size=length)) for length in lengths]
    valid_from, test_from = sorted((first, second))
    found = splits.by_time(np.array(lengths), np.concatenate(times), valid_from, test_from)
    expected = [
        (user, end, "train" if time < valid_from else "valid" if time < test_from else "test")
        for user, each in enumerate(times) for end, time in enumerate(each.tolist()) if end >= 1
    ]  # fmt: skip
    assert rows(found) == expected
    assert found.train_to.tolist() == [int((each < valid_from).sum()) for each in times]


def test_times_by_ratio_use_up_the_shares() -> None:
    assert splits.times_by_ratio(lambda: iter([np.array([5, 1, 2, 3, 4]), np.array([6, 7, 8, 9, 10])]), (8, 1, 1)) == (
        9,
        10,
    )
    assert splits.times_by_ratio(lambda: iter([np.array([1, 1, 1, 1])]), (8, 1, 1)) == (1, 1), (
        "equal times stay together"
    )


@given(
    st.lists(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 9), max_size=20), min_size=1, max_size=4),
    st.tuples(*[st.integers(1, 8)] * 3),
    st.sampled_from([2, 3, 4096]),
)
def test_times_by_ratio_are_those_of_the_sorted_log(
    parts: list[list[int]], ratio: tuple[int, int, int], bins: int
) -> None:
    ordered = sorted(time for part in parts for time in part)
    if not ordered:
        return
    places = [len(ordered) * sum(ratio[: n + 1]) // sum(ratio) for n in (0, 1)]
    with mock.patch.object(splits, "BINS", bins):
        found = splits.times_by_ratio(lambda: (np.array(part, dtype=np.int64) for part in parts), ratio)
    assert found == tuple(ordered[place] if place < len(ordered) else ordered[-1] + 1 for place in places)


def test_published_splits_are_kept() -> None:
    label = np.array([-1, 0, 0, 1, 2, -1, -1, 2, 0, 0])  # users of 5, 3 and 2 interactions
    found = splits.given(np.array([5, 3, 2]), label)
    assert rows(found) == [
        (0, 1, "train"),
        (0, 2, "train"),
        (0, 3, "valid"),
        (0, 4, "test"),
        (1, 2, "test"),
        (2, 1, "train"),
    ]
    assert (found.train_from.tolist(), found.train_to.tolist()) == ([1, 0, 1], [3, 0, 2])
    with pytest.raises(ValueError, match="user 1 has a training target after one that is held out"):
        splits.given(np.array([2, 3]), np.array([0, 2, 0, 1, 0]))


@given(lengths, st.integers(1, 4), st.integers(0, 100))
def test_windows_of_a_training_part_hold_each_target_once(lengths: list[int], max_history: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = np.array(lengths)
    sequences = Sequences(np.arange(counts.sum()), np.concatenate([[0], counts.cumsum()]))
    stop = rng.integers(counts + 1)
    start = rng.integers(stop + 1)
    windows = training_windows(sequences, stop, max_history, start)
    found = [place for first, end in zip(windows.first, windows.stop, strict=True) for place in range(first, end)]
    expected = [
        offset + place
        for offset, low, high in zip(sequences.offsets.tolist(), start.tolist(), stop.tolist(), strict=False)
        for place in range(max(low, 1), high)
    ]
    assert sorted(found) == expected
