"""The figures of quality.json against slow loops, and controls that mean what they say."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ilrec_cli.ids import _quality

PATHS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), min_size=1, max_size=30)


def padded(paths: list[list[int]]) -> np.ndarray:
    matrix = np.full((len(paths), max(map(len, paths))), -1, dtype=np.int64)
    for row, path in zip(matrix, paths, strict=True):
        row[: len(path)] = path
    return matrix


def test_uniqueness_by_hand() -> None:
    assert _quality.uniqueness(np.array([[0, 0], [0, 0], [0, 1], [1, 0], [0, 0]])) == {
        "items": 5, "distinct_paths": 3, "colliding_items": 3, "largest_group": 3,
        "collision_rate": pytest.approx(2 / 5), "codes_per_level": [2, 2], "prefixes_per_depth": [2, 3],
    }  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(PATHS)
def test_counts_against_dictionaries(paths: list[list[int]]) -> None:
    path_ID, depth = padded(paths), max(map(len, paths))
    found = _quality.uniqueness(path_ID)
    groups = Counter(map(tuple, paths))
    assert found["distinct_paths"] == len(groups)
    assert found["colliding_items"] == sum(size for size in groups.values() if size > 1)
    assert found["codes_per_level"] == [len({path[n] for path in paths if len(path) > n}) for n in range(depth)]
    assert found["prefixes_per_depth"] == [
        len({tuple(path[: n + 1]) for path in paths if len(path) > n}) for n in range(depth)
    ]
    assert _quality.shared(path_ID).tolist() == [groups[tuple(path)] > 1 for path in paths]


@settings(max_examples=80, deadline=None)
@given(PATHS)
def test_use_of_codes_and_branching_against_loops(paths: list[list[int]]) -> None:
    path_ID, depth = padded(paths), max(map(len, paths))
    for level, row in enumerate(_quality.levels(path_ID, [4] * depth)):
        count = Counter(path[level] for path in paths if len(path) > level)
        entropy = -sum(c / count.total() * math.log(c / count.total()) for c in count.values())
        assert row == pytest.approx({"codes": 4, "used": len(count), "usage": len(count) / 4,
                                     "entropy": entropy / math.log(4), "perplexity": math.exp(entropy)}, abs=1e-9)  # fmt: skip
    assert [row["usage"] for row in _quality.levels(path_ID, [])] == [None] * depth
    for level, row in enumerate(_quality.branching(path_ID)):
        children: dict[tuple[int, ...], set[int]] = {}
        for path in paths:
            if len(path) > level:
                children.setdefault(tuple(path[:level]), set()).add(path[level])
        sizes = [len(each) for each in children.values()]
        assert row == {"nodes": len(sizes), "mean_children": pytest.approx(np.mean(sizes)), "most_children": max(sizes)}


@settings(max_examples=30, deadline=None)
@given(PATHS, st.integers(0, 100))
def test_purity_counts_pairs(paths: list[list[int]], seed: int) -> None:
    brand = np.random.default_rng(seed).integers(-1, 3, size=len(paths))
    rows = _quality.purity(padded(paths), {"brand": brand}, None)
    for depth in range(1, max(map(len, paths)) + 1):
        pairs = [
            brand[a] == brand[b]
            for a, b in combinations(range(len(paths)), 2)
            if min(len(paths[a]), len(paths[b])) >= depth
            and paths[a][:depth] == paths[b][:depth]
            and min(brand[a], brand[b]) >= 0
        ]
        found = [row["share"] for row in rows if row["depth"] == depth]
        assert found == ([pytest.approx(np.mean(pairs))] if pairs else [])


def test_nearest_others_against_a_loop() -> None:
    vectors = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    query, near = _quality.nearest(vectors, np.random.default_rng(0))
    assert query.tolist() == list(range(60))
    for item, found in zip(query, near, strict=True):
        distance = ((vectors - vectors[item]) ** 2).sum(1)
        distance[item] = np.inf
        assert set(found.tolist()) == set(np.argsort(distance)[: _quality.NEIGHBOURS].tolist())


def world(items: int = 600) -> tuple[np.ndarray, dict[str, Any], np.ndarray]:
    """Items in 20 clusters, a brand each, and prefixes that are the clusters."""
    rng = np.random.default_rng(1)
    cluster = rng.integers(20, size=items)
    vectors = (rng.normal(size=(20, 8)) * 5)[cluster] + rng.normal(size=(items, 8))
    return cluster, {"brand": cluster // 2}, vectors.astype(np.float32)


def test_clusters_are_purer_than_chance_and_random_prefixes_are_not() -> None:
    cluster, attributes, vectors = world()
    for row in _quality.purity(cluster[:, None], attributes, vectors):
        assert row["share"] > 0.95
        assert row["low"] <= row["control"] <= row["high"] < 0.2
    rng = np.random.default_rng(2)
    inside = []
    for _ in range(20):
        rows = _quality.purity(rng.permutation(cluster)[:, None], attributes, vectors)
        inside += [row["low"] <= row["share"] <= row["high"] for row in rows]
    assert np.mean(inside) > 0.8, "95 % of random assignments lie inside, as they should"


def test_the_control_has_the_mean_that_theory_gives() -> None:
    """A random pair agrees with probability sum over brands of pairs of it, over all pairs."""
    cluster, attributes, _ = world()
    (row,) = _quality.purity(np.random.default_rng(3).integers(5, size=len(cluster))[:, None], attributes, None)
    count = np.bincount(attributes["brand"])
    want = (count * (count - 1)).sum() / (len(cluster) * (len(cluster) - 1))
    assert row["control"] == pytest.approx(want, abs=0.001)
