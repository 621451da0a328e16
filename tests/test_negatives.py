"""Candidate sets: the target once, the user's own items never, the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest

from ilrec_cli.histories import Sequences
from ilrec_cli.negatives import candidate_sets

SEQUENCES = Sequences(np.array([0, 1, 2, 3, 4, 5, 0, 9]), np.array([0, 6, 8]))


def draw(negatives: int, items: int, seed: int = 0) -> np.ndarray:
    users, target = np.array([0, 1, 0]), np.array([5, 9, 4])
    return candidate_sets(SEQUENCES, users, target, negatives, items, np.random.default_rng(seed))


@pytest.mark.parametrize("items", [10, 12, 500])
def test_sets_hold_the_target_and_only_strangers(items: int) -> None:
    found = draw(4, items)
    assert found.shape == (3, 5)
    for row, user, target in zip(found.tolist(), (0, 1, 0), (5, 9, 4), strict=True):
        assert len(set(row)) == 5
        assert row.count(target) == 1
        own = set(SEQUENCES.items[SEQUENCES.offsets[user] : SEQUENCES.offsets[user + 1]].tolist())
        assert set(row) & own == {target}


def test_draws_depend_on_the_seed_alone() -> None:
    assert np.array_equal(draw(4, 500), draw(4, 500))
    assert not np.array_equal(draw(4, 500), draw(4, 500, seed=1))


def test_the_place_of_the_target_is_uniform() -> None:
    many = candidate_sets(SEQUENCES, np.zeros(4000, dtype=int), np.full(4000, 5), 3, 500, np.random.default_rng(0))
    share = np.bincount(np.argmax(many == 5, axis=1), minlength=4) / 4000
    assert np.abs(share - 0.25).max() < 0.03


def test_too_few_strangers_are_refused() -> None:
    with pytest.raises(ValueError, match="leaves only 4 of 10 items"):
        draw(5, 10)
