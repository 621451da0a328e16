"""Metrics against fractions worked out by hand, and ranking ties."""

from __future__ import annotations

from math import log2

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ilrec_cli.metrics import REPORTED, ListCounts, expected_metrics, ranking_metrics, reported_means
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


@pytest.mark.parametrize(
    ("first", "sharing", "k", "hit", "ndcg", "mrr"),
    [
        (0, 1, 1, 1, 1, 1),
        (0, 2, 1, 1 / 2, 1 / 2, 1 / 2),
        (0, 2, 5, 1, (1 + 1 / log2(3)) / 2, (1 + 1 / 2) / 2),
        (4, 3, 5, 1 / 3, 1 / log2(6) / 3, 1 / 5 / 3),
        (4, 3, 6, 2 / 3, (1 / log2(6) + 1 / log2(7)) / 3, (1 / 5 + 1 / 6) / 3),
        (5, 3, 5, 0, 0, 0),
        (-1, 3, 5, 0, 0, 0),
    ],
)
def test_shared_identifiers_by_hand(first: int, sharing: int, k: int, hit: float, ndcg: float, mrr: float) -> None:
    values = expected_metrics(np.array([first]), np.array([sharing]), [k])
    assert values[f"hit@{k}"].tolist() == [pytest.approx(hit, abs=1e-15)]
    assert values[f"ndcg@{k}"].tolist() == [pytest.approx(ndcg, abs=1e-15)]
    assert values[f"mrr@{k}"].tolist() == [pytest.approx(mrr, abs=1e-15)]


@given(st.lists(st.integers(-1, 12), min_size=1, max_size=20), st.integers(1, 15))
def test_without_sharing_the_expected_value_is_the_plain_one(ranks: list[int], k: int) -> None:
    plain = ranking_metrics(np.array(ranks), [k])
    expected = expected_metrics(np.array(ranks), np.ones(len(ranks), dtype=int), [k])
    for name, value in plain.items():
        np.testing.assert_allclose(expected[name], value, atol=1e-14)


@given(st.integers(-1, 12), st.integers(1, 5), st.integers(1, 15))
def test_the_expected_value_is_the_mean_over_all_places(first: int, sharing: int, k: int) -> None:
    places = np.arange(first, first + sharing) if first >= 0 else np.array([-1])
    for name, value in ranking_metrics(places, [k]).items():
        found = expected_metrics(np.array([first]), np.array([sharing]), [k])[name]
        assert found[0] == pytest.approx(value.mean(), abs=1e-14)


def recbole(lists: list[list[int]], targets: list[int], popularity: list[int], k: int) -> dict[str, float]:
    """RecBole's definitions (recbole/evaluator/metrics.py at 025bef6), in plain loops; one relevant item a row."""
    found = dict.fromkeys(("hit", "mrr", "recall", "ndcg", "average_popularity"), 0.0)
    counts: dict[int, int] = {}
    for row, target in zip(lists, targets, strict=True):
        hits = [item == target for item in row[:k]]
        found["hit"] += sum(hits) > 0
        found["recall"] += sum(hits) / 1
        found["mrr"] += next((1 / (place + 1) for place, hit in enumerate(hits) if hit), 0.0)
        ideal = 1 / log2(2)
        found["ndcg"] += sum(1 / log2(place + 2) for place, hit in enumerate(hits) if hit) / ideal
        found["average_popularity"] += sum(popularity[item] for item in row[:k]) / k
        for item in row[:k]:
            counts[item] = counts.get(item, 0) + 1
    found = {name: value / len(lists) for name, value in found.items()}
    found["coverage"] = len(counts) / len(popularity)
    total, items, gini = len(lists) * k, len(popularity), 0.0
    for place, count in enumerate(sorted(counts.values()), start=items - len(counts) + 1):
        gini += (2 * place - items - 1) * count
    found["gini"] = gini / total / items
    return {f"{name}@{k}": value for name, value in found.items()}


@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(8, 25))
def test_recbole_agrees_on_the_same_rankings(seed: int, events: int, items: int) -> None:
    rng = np.random.default_rng(seed)
    lists = np.stack([rng.permutation(items)[:8] for _ in range(events)])
    target, popularity = rng.integers(items, size=events), rng.integers(0, 50, size=items)
    hit = lists == target[:, None]
    rank = np.where(hit.any(1), hit.argmax(1), -1)
    counts = ListCounts(items, [1, 3, 8])
    for part in np.array_split(lists, 3):  # added up in any parts
        counts.add(part)
    ours = {name: float(each.mean()) for name, each in ranking_metrics(rank, [1, 3, 8]).items()}
    ours |= {f"recall@{k}": ours[f"hit@{k}"] for k in (1, 3, 8)} | counts.metrics(popularity)
    for k in (1, 3, 8):
        for name, value in recbole(lists.tolist(), target.tolist(), popularity.tolist(), k).items():
            assert ours[name] == pytest.approx(value, abs=1e-12), name


def test_novelty_and_popular_items_by_hand() -> None:
    popularity = np.array([7, 0, 3, 0, 0, 0, 0, 0, 0, 0])  # 10 items, 10 interactions: an item's share is (n + 1) / 20
    counts = ListCounts(10, [2])
    counts.add(np.array([[0, 2, 5], [0, 1, -1], [4, -1, -1]]))  # padded lists count what they hold
    found = counts.metrics(popularity)
    assert found["novelty@2"] == pytest.approx(-(2 * log2(8 / 20) + log2(4 / 20) + 2 * log2(1 / 20)) / 5)
    assert found["popularity_share@2"] == 2 / 5  # the most popular tenth is item 0
    assert found["coverage@2"] == 4 / 10
    assert found["average_popularity@2"] == (7 + 7 + 3 + 0 + 0) / 5
