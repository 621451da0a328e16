"""Top-k and its tie rule against a sort in plain Python."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ilrec_cli.ranking import rank_in, top_k

FEW = st.sampled_from([-1.0, -0.0, 0.0, 1e-45, 1.0, 2.0, float("inf"), -float("inf")])


@given(st.lists(st.lists(FEW, min_size=7, max_size=7), min_size=1, max_size=6), st.integers(1, 9))
def test_the_best_come_first_and_ties_go_to_the_lower_index(rows: list[list[float]], k: int) -> None:
    found = top_k(torch.tensor(rows), k).tolist()
    assert found == [sorted(range(7), key=lambda index, row=row: (-row[index], index))[:k] for row in rows]


@given(st.integers(64 * 4, 64 * 7), st.integers(1, 2), st.integers(0, 2**16), st.integers(1, 400))
def test_through_the_blocks_too(items: int, k: int, seed: int, distinct: int) -> None:
    """Wide enough for blocks; few distinct scores, so that ties reach across the last place, or none at all."""
    score = np.random.default_rng(seed).integers(distinct, size=(3, items)).astype(np.float32)
    expected = np.lexsort((np.broadcast_to(np.arange(items), score.shape), -score), axis=1)[:, :k]
    assert (top_k(torch.from_numpy(score), k).numpy() == expected).all()


def test_rows_with_and_without_ties_in_one_batch() -> None:
    rng = np.random.default_rng(0)
    score = rng.normal(size=(50, 4000)).astype(np.float32)
    score[::3] = score[::3].round(1)
    expected = np.lexsort((np.broadcast_to(np.arange(4000), score.shape), -score), axis=1)[:, :20]
    assert (top_k(torch.from_numpy(score), 20).numpy() == expected).all()


@pytest.mark.parametrize("items", [5, 1000])
@pytest.mark.parametrize("place", [0, 3, -1])
@pytest.mark.parametrize("others", [0.0, float("-inf"), float("inf")])
def test_nan_has_no_place(items: int, place: int, others: float) -> None:
    score = torch.full((2, items), others)
    score[1, place] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        top_k(score, 2)


def test_the_rank_of_what_is_not_listed_is_minus_one() -> None:
    assert rank_in(torch.tensor([[4, 2], [1, 0]]), torch.tensor([2, 3])).tolist() == [1, -1]
