"""Ranking metrics: one value per test event; the mean is taken last, over all events.

With a single relevant item at 0-based rank r (-1 where it was not ranked):
hit@k = [0 <= r < k], ndcg@k = hit@k / log2(r + 2), mrr@k = hit@k / (r + 1). Shapes: E events.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

METRICS = ("hit", "ndcg", "mrr")


def ranking_metrics(rank_E: np.ndarray, ks: Iterable[int]) -> dict[str, np.ndarray]:
    """{"hit@k": [E], "ndcg@k": [E], "mrr@k": [E]} as float64, for every k.

    >>> ranking_metrics(np.array([0, 2, -1]), [2])["hit@2"].tolist()
    [1.0, 0.0, 0.0]
    """
    rank_E = np.asarray(rank_E)
    place_E = np.where(rank_E >= 0, rank_E, 0)  # any value: multiplied by a hit of 0
    gain_E = {"hit": np.ones(len(rank_E)), "ndcg": 1 / np.log2(place_E + 2), "mrr": 1 / (place_E + 1)}
    values = {}
    for k in ks:
        if k < 1:
            raise ValueError(f"metrics need k >= 1, got {k}")
        hit_E = (rank_E >= 0) & (rank_E < k)
        for name in METRICS:
            values[f"{name}@{k}"] = np.where(hit_E, gain_E[name], 0.0)
    return values


# What the tables show: the figures of the paper and the two of its neighbours that are always asked for.
REPORTED = (
    "hit@1", "hit@5", "hit@10", "hit@20", "ndcg@5", "ndcg@10", "ndcg@20", "mrr@10",
)  # fmt: skip


def reported_means(rank_E: np.ndarray) -> dict[str, float]:
    """The means of the reported metrics over all events."""
    values = ranking_metrics(rank_E, sorted({int(name.split("@")[1]) for name in REPORTED}))
    return {name: float(values[name].mean()) for name in REPORTED}
