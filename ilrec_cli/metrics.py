"""Ranking metrics: one value per test event; the mean is taken last, over all events.

With a single relevant item at 0-based rank r (-1 where it was not ranked):
hit@k = [0 <= r < k], ndcg@k = hit@k / log2(r + 2), mrr@k = hit@k / (r + 1). What lists look like as a whole (coverage,
Gini, novelty, popularity) is counted per item. Shapes: E events, I items, k listed items.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

METRICS = ("hit", "ndcg", "mrr")
HEAD = 0.1  # the most popular items that popularity_share counts, as a share of the catalogue


def ranking_metrics(rank_E: np.ndarray, ks: Iterable[int]) -> dict[str, np.ndarray]:
    """{"hit@k": [E], "ndcg@k": [E], "mrr@k": [E]} as float64, for every k.

    >>> ranking_metrics(np.array([0, 2, -1]), [2])["hit@2"].tolist()
    [1.0, 0.0, 0.0]
    """
    rank_E = np.asarray(rank_E)
    place_E = np.where(rank_E >= 0, rank_E, 0)  # any value: multiplied by a hit of 0
    gain_E = {name: _gain(name, place_E) for name in METRICS}
    values = {}
    for k in ks:
        _check(k)
        hit_E = (rank_E >= 0) & (rank_E < k)
        for name in METRICS:
            values[f"{name}@{k}"] = np.where(hit_E, gain_E[name], 0.0)
    return values


def expected_metrics(first_E: np.ndarray, sharing_E: np.ndarray, ks: Iterable[int]) -> dict[str, np.ndarray]:
    """The same metrics where `sharing` items have the target's identifier: their mean over all orders of those items.

    `first` is the 0-based place of the first of them, -1 where none is listed; places first to first + sharing - 1 are
    equally likely. Equal to `ranking_metrics` where nothing is shared.

    >>> expected_metrics(np.array([0, 1]), np.array([2, 1]), [1])["hit@1"].tolist()
    [0.5, 0.0]
    """
    first_E, sharing_E = np.asarray(first_E), np.asarray(sharing_E)
    values = {}
    for k in ks:
        _check(k)
        start_E = np.where(first_E >= 0, np.minimum(first_E, k), k)
        stop_E = np.minimum(start_E + sharing_E, k)
        for name in METRICS:
            total_k = np.concatenate([[0.0], _gain(name, np.arange(k)).cumsum()])  # gain of the places before each
            values[f"{name}@{k}"] = (total_k[stop_E] - total_k[start_E]) / sharing_E
    return values


class ListCounts:
    """How often each item stands among the first k of the lists; lists are added a chunk at a time."""

    def __init__(self, items: int, ks: Sequence[int]):
        self.count_I = {k: np.zeros(items, dtype=np.int64) for k in ks}

    def add(self, item_Ek: np.ndarray) -> None:
        """Lists padded with -1."""
        for k, count_I in self.count_I.items():
            listed = item_Ek[:, :k]
            count_I += np.bincount(listed[listed >= 0], minlength=len(count_I))

    def metrics(self, popularity_I: np.ndarray) -> dict[str, float]:
        """Coverage, Gini, novelty, mean popularity and the share of popular items, for every k.

        `popularity` counts an item's training interactions. Gini and mean popularity are RecBole's GiniIndex and
        AveragePopularity; novelty is the mean of -log2 of an item's share of the training interactions, each item counted
        once more, so that it is finite for items without any.
        """
        items = len(popularity_I)
        surprise_I = -np.log2((popularity_I + 1) / (popularity_I.sum() + items))
        head = np.argsort(-popularity_I, kind="stable")[: max(1, int(items * HEAD))]
        values: dict[str, float] = {}
        for k, count_I in self.count_I.items():
            places = max(int(count_I.sum()), 1)
            balance_I = 2 * np.arange(1, items + 1) - items - 1
            values |= {
                f"coverage@{k}": float((count_I > 0).sum() / items),
                f"gini@{k}": float((balance_I * np.sort(count_I)).sum() / (items * places)),
                f"novelty@{k}": float((surprise_I * count_I).sum() / places),
                f"average_popularity@{k}": float((popularity_I * count_I).sum() / places),
                f"popularity_share@{k}": float(count_I[head].sum() / places),
            }
        return values


def _gain(name: str, place: np.ndarray) -> np.ndarray:
    """What an item at this place is worth."""
    return {"hit": np.ones(len(place)), "ndcg": 1 / np.log2(place + 2), "mrr": 1 / (place + 1)}[name]


def _check(k: int) -> None:
    if k < 1:
        raise ValueError(f"metrics need k >= 1, got {k}")


# What the tables show: the figures of the paper and the two of its neighbours that are always asked for.
REPORTED = (
    "hit@1", "hit@5", "hit@10", "hit@20", "ndcg@5", "ndcg@10", "ndcg@20", "mrr@10",
)  # fmt: skip
KS = (1, 5, 10, 20)  # computed always, whatever is asked for besides


def reported_means(rank_E: np.ndarray) -> dict[str, float]:
    """The means of the reported metrics over all events."""
    values = ranking_metrics(rank_E, KS)
    return {name: float(values[name].mean()) for name in REPORTED}
