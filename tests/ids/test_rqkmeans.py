"""Residual k-means: nearest centroids level by level, balanced where asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ilrec_cli.ids import rqkmeans
from ilrec_cli.ids._assignment import from_codes, token
from ilrec_cli.ids._quantise import Job, Quantised, automatic_codes
from ilrec_cli.ids.rqkmeans.quantise import balanced, fit
from ilrec_cli.trie import ItemTrie


def clustered(items: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(8, 6)) * 3
    return (centres[rng.integers(8, size=items)] + rng.normal(size=(items, 6)) * 0.3).astype(np.float32)


def quantised(vectors: np.ndarray, seed: int = 0, **options: Any) -> Quantised:
    config = rqkmeans.Config(**({"levels": 2, "codes": 8} | options))
    return fit(vectors, config, np.random.default_rng(seed), Job())


def test_each_level_is_the_nearest_centroid_to_what_is_left() -> None:
    left = clustered(60).astype(np.float64)
    found = quantised(clustered(60))
    for code_I, codebook_KD in zip(found.code_IL.T, found.codebook_LKD, strict=True):
        assert code_I.tolist() == ((left[:, None] - codebook_KD[None]) ** 2).sum(-1).argmin(1).tolist()
        left = left - codebook_KD[code_I]
    first = quantised(clustered(60)).codebook_LKD[0]
    for code in range(8):
        members = clustered(60)[found.code_IL[:, 0] == code]
        np.testing.assert_allclose(members.mean(0), first[code], atol=1e-4, err_msg="k-means has converged")


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 7), st.integers(0, 1000), st.integers(0, 6))
def test_a_balanced_assignment_is_stable_and_within_capacity(items: int, codes: int, seed: int, twins: int) -> None:
    rng = np.random.default_rng(seed)
    points, centroids = rng.normal(size=(items, 3)).astype(np.float32), rng.normal(size=(codes, 3)).astype(np.float32)
    points[:twins] = points[0]
    found = balanced(points, centroids)
    capacity = -(-items // codes)
    assert np.bincount(found, minlength=codes).max() <= capacity
    cost = ((points[:, None].astype(np.float64) - centroids[None]) ** 2).sum(-1)
    for item in range(items):
        for code in range(codes):
            if cost[item, code] < cost[item, found[item]] - 1e-4:  # the item would rather have this code
                members = np.flatnonzero(found == code)
                assert len(members) == capacity, "which is full"
                assert cost[members, code].max() <= cost[item, code] + 1e-4, "of items that are as near or nearer"


def test_balanced_levels() -> None:
    vectors = clustered(67)
    plain, even = quantised(vectors), quantised(vectors, balanced=True)
    assert np.bincount(plain.code_IL[:, 0]).max() > 9
    for code_I in even.code_IL.T:
        assert np.bincount(code_I, minlength=8).max() <= 9
    order = np.random.default_rng(0).permutation(67)
    assert (quantised(vectors[order], balanced=True).code_IL == even.code_IL[order]).all()


def test_suffix_tokens_and_their_paths() -> None:
    found = from_codes(np.array([[3, 2, 0], [3, 2, 1], [0, 1, -1]]), {})
    assert found.tokens.to_pylist() == [["<a_3>", "<b_2>", "<c_0>"], ["<a_3>", "<b_2>", "<c_1>"], ["<a_0>", "<b_1>"]]
    assert found.codes.to_pylist() == [[3, 2, 0], [3, 2, 1], [0, 1]]
    assert token(2, 1) == "<c_1>"
    ItemTrie.build(found.codes.to_pylist())


@pytest.mark.parametrize(("items", "codes"), [(4, 4), (384, 32), (3541, 128), (9922, 256), (10**6, 1024)])
def test_automatic_codes(items: int, codes: int) -> None:
    assert automatic_codes(items, 1024) == codes


def test_fewer_items_than_codes() -> None:
    found = quantised(clustered(3), codes=256)
    assert len(np.unique(found.code_IL, axis=0)) == 3
    assert len(found.codebook_LKD[0]) == 3
