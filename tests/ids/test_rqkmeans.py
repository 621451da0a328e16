"""Residual k-means: unique paths at the least cost, the same for the same seed."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ilrec_cli.ids import rqkmeans
from ilrec_cli.ids._assignment import quality, token
from ilrec_cli.ids.rqkmeans.assign import assign, automatic_codes, resolve
from ilrec_cli.trie import ItemTrie


def clustered(items: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(8, 6)) * 3
    return (centres[rng.integers(8, size=items)] + rng.normal(size=(items, 6)) * 0.3).astype(np.float32)


def ids(vectors: np.ndarray, seed: int = 0, **options: Any) -> Any:
    config = rqkmeans.Config(**({"levels": 2, "codes": 8} | options))
    return assign(pa.table({}), vectors, config, np.random.default_rng(seed))


def test_paths_are_unique_and_round_trip_through_the_trie() -> None:
    found = ids(clustered(60))
    assert quality(found.tokens)["colliding_items"] == 0
    assert found.notes["collisions_before_resolution"] > 0, "there was something to resolve"
    trie = ItemTrie.build([[*(100 * level + code for level, code in enumerate(path)), 10_000] for path in found.codes])
    assert len(set(trie.leaf_of(trie.order).tolist())) == 60


def test_the_first_level_is_the_nearest_centroid_and_the_second_quantises_what_is_left() -> None:
    vectors = clustered(60)
    found = ids(vectors)
    first, second = found.codebooks["level_0"], found.codebooks["level_1"]
    nearest = ((vectors[:, None] - first[None]) ** 2).sum(-1).argmin(1)
    assert [path[0] for path in found.codes] == nearest.tolist()
    residual = vectors - first[nearest]
    want = ((residual[:, None] - second[None]) ** 2).sum(-1).argmin(1)
    moved = sum(path[1] != code for path, code in zip(found.codes, want.tolist(), strict=True))
    assert moved == found.notes["items_moved"]


def test_same_seed_same_ids_other_seed_other_ids() -> None:
    vectors = clustered(60)
    assert ids(vectors).codes == ids(vectors).codes
    assert ids(vectors).codes != ids(vectors, seed=1).codes


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(6, 7), st.integers(0, 1000))
def test_collisions_are_resolved_at_the_least_total_distance(items: int, codes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    residual, centroids = rng.normal(size=(items, 3)), rng.normal(size=(codes, 3))
    cost = ((residual[:, None] - centroids[None]) ** 2).sum(-1)
    start = np.stack([np.zeros(items, dtype=np.int64), cost.argmin(1)], 1)
    found = resolve(start, residual, centroids)
    assert len(set(found)) == items
    best = min(cost[np.arange(items), list(choice)].sum() for choice in permutations(range(codes), items))
    assert cost[np.arange(items), found].sum() == pytest.approx(best)


def test_only_prefixes_with_a_collision_are_touched() -> None:
    rng = np.random.default_rng(0)
    residual, centroids = rng.normal(size=(4, 3)), rng.normal(size=(5, 3))
    start = np.array([[0, 1], [0, 1], [1, 3], [1, 4]])
    assert resolve(start, residual, centroids)[2:].tolist() == [3, 4]


def test_more_items_than_leaves_below_a_prefix_get_a_suffix() -> None:
    vectors = np.repeat(clustered(1), 11, axis=0) + np.arange(11)[:, None].astype(np.float32) * 1e-6
    found = ids(vectors, levels=1, codes=4)
    assert quality(found.tokens)["colliding_items"] == 0
    assert found.notes["items_with_suffix"] == sum(len(path) == 2 for path in found.codes) > 0
    paths = [
        [*map(hash, row), 0]
        for row in ([token(level, code) for level, code in enumerate(path)] for path in found.codes)
    ]
    ItemTrie.build([[abs(part) for part in path] for path in paths])


@pytest.mark.parametrize(("items", "codes"), [(4, 4), (384, 32), (3541, 128), (9922, 256), (10**6, 1024)])
def test_automatic_codes(items: int, codes: int) -> None:
    assert automatic_codes(items) == codes


def test_fewer_items_than_codes() -> None:
    assert quality(ids(clustered(3), codes=256).tokens)["distinct_paths"] == 3


def test_quality_by_hand() -> None:
    figures = quality(
        [["<a_0>", "<b_0>"], ["<a_0>", "<b_0>"], ["<a_0>", "<b_1>"], ["<a_1>", "<b_0>"], ["<a_0>", "<b_0>"]]
    )
    assert figures["distinct_paths"] == 3
    assert figures["colliding_items"] == 3
    assert figures["largest_group"] == 3
    assert figures["collision_rate"] == pytest.approx(2 / 5)
    assert figures["codes_per_level"] == [2, 2]
    assert figures["prefixes_per_depth"] == [2, 3]
