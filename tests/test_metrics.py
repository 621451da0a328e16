"""Metrics against fractions worked out by hand, and ranking ties."""

from __future__ import annotations

from math import log2

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ilrec_cli.metrics import REPORTED, ranking_metrics, reported_means
from ilrec_cli.ranking import rank_in, top_k


@pytest.mark.parametrize(
    ("rank", "k", "hit", "ndcg", "mrr"),
    [
        (0, 1, 1, 1, 1),
        (0, 10, 1, 1, 1),
        (1, 1, 0, 0, 0),
        (1, 5, 1, 1 / log2(3), 1 / 2),
        (4, 5, 1, 1 / log2(6), 1 / 5),
        (5, 5, 0, 0, 0),
        (9, 10, 1, 1 / log2(11), 1 / 10),
        (-1, 10, 0, 0, 0),
    ],
)
def test_one_event(rank: int, k: int, hit: float, ndcg: float, mrr: float) -> None:
    values = ranking_metrics(np.array([rank]), [k])
    assert values[f"hit@{k}"].tolist() == [hit]
    assert values[f"ndcg@{k}"].tolist() == [pytest.approx(ndcg, abs=1e-15)]
    assert values[f"mrr@{k}"].tolist() == [pytest.approx(mrr, abs=1e-15)]


def test_means_by_hand() -> None:
    means = reported_means(np.array([0, 3, -1, 12]))
    assert set(means) == set(REPORTED)
    assert means["hit@1"] == 1 / 4
    assert means["hit@10"] == 2 / 4
    assert means["hit@20"] == 3 / 4
    assert means["ndcg@10"] == pytest.approx((1 + 1 / log2(5)) / 4)
    assert means["mrr@10"] == pytest.approx((1 + 1 / 4) / 4)


@given(st.lists(st.integers(-1, 30), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_order_of_events_does_not_matter_and_k_only_adds(ranks: list[int], random: object) -> None:
    shuffled = list(ranks)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, two = reported_means(np.array(ranks)), reported_means(np.array(shuffled))
    assert one == pytest.approx(two)
    assert one["hit@1"] <= one["hit@5"] <= one["hit@10"] <= one["hit@20"]
    assert one["ndcg@5"] <= one["ndcg@10"] <= one["ndcg@20"] <= one["hit@20"] + 1e-12


def test_k_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="k >= 1"):
        ranking_metrics(np.array([0]), [0])


@given(st.lists(st.sampled_from([-2.5, -0.0, 0.0, 1.0, 1.5]), min_size=1, max_size=40), st.integers(1, 45))
def test_top_k_is_sorted_by_score_then_index(scores: list[float], k: int) -> None:
    found = top_k(torch.tensor([scores]), k)[0].tolist()
    assert found == sorted(range(len(scores)), key=lambda index: (-scores[index], index))[:k]


def test_scores_that_are_no_numbers_are_not_ranked() -> None:
    with pytest.raises(ValueError, match="NaN"):
        top_k(torch.tensor([[1.0, float("nan"), 3.0]]), 2)


def test_rank_in_a_list() -> None:
    lists = torch.tensor([[4, 2, 7], [1, -1, -1]])
    assert rank_in(lists, torch.tensor([7, 2])).tolist() == [2, -1]
