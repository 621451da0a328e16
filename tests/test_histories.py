"""Histories and training windows against loops over users."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ilrec_cli.batching import epoch_batches, share, steps_per_epoch
from ilrec_cli.histories import Sequences, histories, targets, training_windows


def flat(lengths: list[int]) -> Sequences:
    """Item n is the n-th of all interactions, so every place has its own number."""
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return Sequences(np.arange(offsets[-1]), offsets)


@given(st.lists(st.integers(0, 70), min_size=1, max_size=6), st.integers(1, 20))
def test_every_training_target_is_in_exactly_one_window(lengths: list[int], max_history: int) -> None:
    sequences = flat(lengths)
    train = np.maximum(np.array(lengths) - 2, 0)
    windows = training_windows(sequences, train, max_history)
    found = []
    for start, first, stop in zip(*windows, strict=True):
        assert stop - start <= max_history + 1
        for place in range(first, stop):
            found.append(place)
            before = place - start
            user_start = sequences.offsets[np.searchsorted(sequences.offsets, place, side="right") - 1]
            assert 1 <= before <= max_history
            assert before >= min(place - user_start, max_history // 2), "long histories keep at least half"
            assert start >= user_start
    expected = [sequences.offsets[user] + end for user, length in enumerate(train) for end in range(1, length)]
    assert sorted(found) == expected


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(1, 20), st.data())
def test_histories_are_the_last_items_before_the_target(lengths: list[int], longest: int, data: st.DataObject) -> None:
    sequences = flat(lengths)
    user = np.array(data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=5)))
    end = np.array([data.draw(st.integers(0, lengths[each] - 1)) for each in user])
    found = histories(sequences, user, end, longest)
    for row, (each, place) in enumerate(zip(user, end, strict=True)):
        items = list(range(sequences.offsets[each], sequences.offsets[each] + place))[-longest:]
        assert found[row][found[row] >= 0].tolist() == items
        assert (found[row][len(items) :] == -1).all(), "padding stands on the right"
    assert targets(sequences, user, end).tolist() == (sequences.offsets[user] + end).tolist()


@given(st.lists(st.integers(1, 30), min_size=1, max_size=300), st.integers(1, 9), st.integers(0, 5))
def test_an_epoch_holds_every_example_once(lengths: list[int], size: int, epoch: int) -> None:
    batches = epoch_batches(np.array(lengths), size, seed=1, epoch=epoch)
    assert len(batches) == steps_per_epoch(len(lengths), size)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert max(map(len, batches)) <= size
    again = epoch_batches(np.array(lengths), size, seed=1, epoch=epoch)
    assert all(np.array_equal(one, two) for one, two in zip(batches, again, strict=True))


@given(st.integers(1, 40), st.integers(1, 5), st.one_of(st.none(), st.integers(1, 7)))
def test_processes_share_a_batch_without_overlap_in_equally_many_parts(
    rows: int, world: int, micro: int | None
) -> None:
    parts = [share(np.arange(rows), micro, rank, world) for rank in range(world)]
    assert len({len(part) for part in parts}) == 1
    assert sorted(np.concatenate([np.concatenate(part) for part in parts]).tolist()) == list(range(rows))
    assert micro is None or max(len(each) for part in parts for each in part) <= micro
