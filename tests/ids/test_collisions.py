"""Shared paths are told apart at the least cost, whatever the order of the items; against brute force."""

from __future__ import annotations

from itertools import permutations, product
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ilrec_cli.errors import UserError
from ilrec_cli.ids import _collisions, _settle
from ilrec_cli.ids._assignment import Assignment, prefixes, to_matrix
from ilrec_cli.ids._collisions import Space, free_last_codes, resolve, suffixed
from ilrec_cli.ids._quality import uniqueness
from ilrec_cli.ids._quantise import Quantised, greedy

SIZES = st.lists(st.integers(2, 4), min_size=1, max_size=3)


def world(sizes: list[int], items: int, seed: int, twins: int = 0) -> tuple[np.ndarray, Space]:
    """Greedy codes of random items; some have the very same vector."""
    rng = np.random.default_rng(seed)
    codebooks = [rng.normal(size=(size, 3)).astype(np.float32) / (level + 1) for level, size in enumerate(sizes)]
    latent = rng.normal(size=(items, 3)).astype(np.float32)
    latent[: min(twins, items)] = latent[0]
    return greedy(latent, codebooks)[0], Space(latent, codebooks)


def squared_distance(space: Space, item: int, path: Any) -> float:
    left = space.latent_ID[item].astype(np.float64)
    for codebook, code in zip(space.codebook_LKD, path, strict=False):
        left = left - codebook[code].astype(np.float64)
    return float(left @ left)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(6, 7), st.integers(0, 1000), st.integers(0, 4))
def test_the_total_distance_inside_a_prefix_is_the_least_there_is(
    items: int, codes: int, seed: int, twins: int
) -> None:
    code, space = world([1, codes], items, seed, twins)
    found, notes = resolve(code, space, np.arange(items))
    cost = np.array([[squared_distance(space, item, (0, last)) for last in range(codes)] for item in range(items)])
    assert len(set(found[:, 1].tolist())) == items
    best = min(cost[np.arange(items), list(choice)].sum() for choice in permutations(range(codes), items))
    assert cost[np.arange(items), found[:, 1]].sum() == pytest.approx(best)
    assert notes["error_after"] == pytest.approx(best / items)
    assert notes["error_before"] == pytest.approx(cost.min(1).mean())


@settings(max_examples=80, deadline=None)
@given(SIZES, st.integers(1, 40), st.integers(0, 1000), st.integers(0, 12))
def test_nothing_collides_and_the_order_of_the_items_does_not_matter(
    sizes: list[int], items: int, seed: int, twins: int
) -> None:
    code, space = world(sizes, items, seed, twins)
    found, notes = resolve(code, space, np.arange(items))
    assert len(np.unique(found, axis=0)) == items
    room = int(np.prod(sizes))
    assert (notes["with_suffix"] > 0) == (items > room), "a suffix only where the tree is full"
    order = np.random.default_rng(seed).permutation(items)
    shuffled = Space(space.latent_ID[order], space.codebook_LKD)
    again, notes_again = resolve(code[order], shuffled, order)
    assert again.tolist() == found[order].tolist()
    assert notes_again == pytest.approx(notes)


def test_only_prefixes_with_a_collision_are_touched() -> None:
    rng = np.random.default_rng(0)
    codebooks = [rng.normal(size=(2, 3)), rng.normal(size=(5, 3))]
    start = np.array([[0, 1], [0, 1], [1, 3], [1, 4]])
    found, notes = resolve(start, Space(rng.normal(size=(4, 3)), codebooks), np.arange(4))
    assert found[2:].tolist() == [[1, 3], [1, 4]]
    assert notes["moved_within_prefix"] == (found != start).any(1).sum() <= 2


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000))
def test_an_item_without_room_takes_the_nearest_free_leaf(seed: int) -> None:
    """Three items of one vector under a prefix of two codes: two stay, one goes where it costs least."""
    rng = np.random.default_rng(seed)
    codebooks = [rng.normal(size=(3, 2)).astype(np.float32), rng.normal(size=(2, 2)).astype(np.float32)]
    latent = np.repeat(rng.normal(size=(1, 2)), 3, axis=0).astype(np.float32)
    other = rng.normal(size=(1, 2)).astype(np.float32)
    space = Space(np.concatenate([latent, other]), codebooks)
    code = greedy(space.latent_ID, codebooks)[0]
    found, _ = resolve(code, space, np.arange(4))
    own = code[0, 0]
    taken = {tuple(path) for path in found.tolist()[:2] + found.tolist()[3:]}
    free = [leaf for leaf in product(range(3), range(2)) if leaf not in taken and leaf[0] != own]
    if found[3].tolist() == code[3].tolist() and code[3, 0] != own:
        assert found[:2, 0].tolist() == [own, own]
        assert tuple(found[2]) == min(free, key=lambda leaf: squared_distance(space, 2, leaf))


def test_prefixes_further_away_are_used_before_a_suffix() -> None:
    """Nine items of one vector, eight leaves in two halves of four."""
    codebooks = [np.array([[0.0], [10.0]]), np.array([[0.0], [1.0]]), np.array([[0.0], [0.1]])]
    space = Space(np.zeros((9, 1), dtype=np.float32), codebooks)
    found, notes = resolve(np.zeros((9, 3), dtype=np.int64), space, np.arange(9))
    assert found[:4, 0].tolist() == [0] * 4
    assert found[4:8, 0].tolist() == [1] * 4
    assert found[[0, 8]].tolist() == [[0, 0, 0, 0], [0, 0, 0, 1]], (
        "the path that the last two share, with a suffix each"
    )
    assert (found[1:8, 3] == -1).all()
    assert notes["with_suffix"] == 2


@settings(max_examples=60, deadline=None)
@given(SIZES, st.integers(1, 15), st.integers(1, 15), st.integers(0, 1000))
def test_fixed_items_never_move(sizes: list[int], old: int, new: int, seed: int) -> None:
    code, space = world(sizes, old + new, seed, twins=4)
    fixed = np.arange(old + new) < old
    before = Space(space.latent_ID[:old], space.codebook_LKD)
    code[:old] = resolve(code[:old], before, np.arange(old))[0][:, : len(sizes)]
    if len(np.unique(code[:old], axis=0)) < old or old + new > np.prod(sizes):
        return  # the tree is full
    found, _ = resolve(code, space, np.arange(old + new), fixed)
    assert found[:old].tolist() == code[:old].tolist()
    assert len(np.unique(found, axis=0)) == old + new


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=3), min_size=1, max_size=25), st.integers(0, 99))
def test_a_suffix_makes_paths_distinct_by_key(paths: list[list[int]], seed: int) -> None:
    path_ID = to_matrix(pa.array(paths, pa.list_(pa.int32())))
    key = np.random.default_rng(seed).permutation(len(paths))
    found = suffixed(path_ID, key)[:, -1]
    for item, path in enumerate(paths):
        same = sorted(key[other] for other, again in enumerate(paths) if again == path)
        assert found[item] == (same.index(key[item]) if len(same) > 1 else -1)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=3), min_size=1, max_size=25), st.integers(0, 99))
def test_without_vectors_the_first_of_a_path_keeps_it(paths: list[list[int]], seed: int) -> None:
    path_ID = to_matrix(pa.array(paths, pa.list_(pa.int32())))
    key = np.random.default_rng(seed).permutation(len(paths))
    found = free_last_codes(path_ID, key)
    firsts = {}
    for item in np.argsort(key):
        firsts.setdefault(tuple(path_ID[item]), item)
    for path, item in firsts.items():
        assert tuple(found[item]) == path
    assert (found[:, :-1][found[:, 1:] >= 0] == path_ID[:, :-1][path_ID[:, 1:] >= 0]).all(), "only last codes move"
    distinct = len(np.unique(found, axis=0))
    assert distinct >= len(firsts)
    if distinct < len(paths):  # whoever still shares a path found the prefix full
        for item in range(len(paths)):
            if (found == found[item]).all(1).sum() > 1:
                length = (path_ID[item] >= 0).sum()
                alike = [other for other in range(len(paths)) if (path_ID[other] >= 0).sum() == length]
                level = {found[other, length - 1] for other in alike}
                here = {
                    found[o, length - 1] for o in alike if (found[o, : length - 1] == found[item, : length - 1]).all()
                }
                assert here == level


def test_prefix_numbers_are_dense_and_tell_prefixes_apart() -> None:
    rng = np.random.default_rng(0)
    path_ID = rng.integers(-1, 3, size=(50, 4))
    for depth, group in enumerate(prefixes(path_ID)):
        rows = [tuple(row) for row in path_ID[:, :depth].tolist()]
        assert len(set(group.tolist())) == len(set(rows)) == group.max() + 1
        assert len(set(zip(rows, group.tolist(), strict=True))) == len(set(rows))


def test_titles_are_kept_or_numbered_and_never_resolved() -> None:
    titles = ["Red", "Blue", "Red", "Red (1)", "Red"]
    tokens = pa.array([[title] for title in titles], pa.list_(pa.string()))
    codes = pa.array([[]] * 5, pa.list_(pa.int32()))
    found = Assignment(codes, tokens, {}, text=True)
    key = np.array([2, 0, 1, 3, 4])
    assert _settle.given(found, "keep", key).tokens.to_pylist() == tokens.to_pylist()
    numbered = [path[0] for path in _settle.given(found, "suffix", key).tokens.to_pylist()]
    assert numbered == ["Red (2)", "Blue", "Red (1) (1)", "Red (1) (2)", "Red (3)"]
    with pytest.raises(UserError, match="titles have no codes"):
        _settle.given(found, "resolve", key)


def test_an_import_is_resolved_by_free_codes_then_by_a_letter_that_no_token_has() -> None:
    paths = [
        ["<a_0>", "<b_0>"],
        ["<a_0>", "<b_0>"],
        ["<a_0>", "<b_0>"],
        ["<a_1>", "<b_7>"],
        ["<a_1>", "<c_9>", "<b_7>"],
    ]
    tokens = pa.array(paths, pa.list_(pa.string()))
    codes = pa.array([[int(token[3:-1]) for token in path] for path in paths], pa.list_(pa.int32()))
    found = _settle.given(Assignment(codes, tokens, {}), "resolve", np.arange(5))
    assert found.tokens.to_pylist() == [
        ["<a_0>", "<b_0>", "<d_0>"],
        ["<a_0>", "<b_7>"],
        ["<a_0>", "<b_0>", "<d_1>"],
        *paths[3:],
    ]
    assert found.codes.to_pylist()[:3] == [[0, 0, 0], [0, 7], [0, 0, 1]]
    assert found.notes["collisions"] == {
        "rule": "resolve", "colliding_items_before": 3, "collision_rate_before": pytest.approx(2 / 5),
        "moved_within_prefix": 1, "with_suffix": 2,
    }  # fmt: skip


def test_an_import_takes_the_lowest_free_code_whatever_the_order_of_its_items() -> None:
    """Codes that appear out of order, and of two digits, which text would put before those of one."""
    paths = [
        ["<a_0>", "<b_10>"], ["<a_0>", "<b_10>"], ["<a_0>", "<b_10>"], ["<a_0>", "<b_10>"],
        ["<a_1>", "<b_9>"], ["<a_0>", "<b_2>"], ["<a_1>", "<b_7>"], ["<a_1>", "<b_3>"],
    ]  # fmt: skip
    expected = ["<b_10>", "<b_3>", "<b_7>", "<b_9>", "<b_9>", "<b_2>", "<b_7>", "<b_3>"]
    rng = np.random.default_rng(0)
    for order in [np.arange(8), np.arange(8)[::-1], *(rng.permutation(8) for _ in range(10))]:
        tokens = pa.array([paths[item] for item in order], pa.list_(pa.string()))
        codes = pa.array([[int(token[3:-1]) for token in paths[item]] for item in order], pa.list_(pa.int32()))
        found = _settle.given(Assignment(codes, tokens, {}), "resolve", order)
        assert [path[1] for path in found.tokens.to_pylist()] == [expected[item] for item in order]
        assert [path[1] for path in found.codes.to_pylist()] == [int(expected[item][3:-1]) for item in order]
        assert found.notes["collisions"]["moved_within_prefix"] == 3


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 6), st.integers(0, 4), st.integers(5, 8), st.integers(0, 1000))
def test_items_with_one_vector_get_their_codes_by_key_whatever_the_last_bits(
    twins: int, others: int, codes: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    code, space = world([2, codes], twins + others, seed, twins)
    key = rng.permutation(twins + others)
    exact = _collisions._squared_distances
    found = resolve(code, space, key)[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            _collisions,
            "_squared_distances",
            lambda *points: (cost := exact(*points)) + rng.normal(size=cost.shape) * 1e-13,
        )
        assert resolve(code, space, key)[0].tolist() == found.tolist()
    by_key = np.argsort(key[:twins])
    inside = [tuple(path) for path in found[by_key].tolist() if path[0] == code[0, 0]]
    assert inside == sorted(inside)
    assert all(found[item, 0] == code[0, 0] for item in by_key[: len(inside)]), "who finds no room comes last"


@pytest.mark.parametrize("rule", ["keep", "suffix", "resolve"])
def test_the_rules_on_own_codes(rule: str) -> None:
    code, space = world([2, 3], 30, 0, twins=5)
    found = _settle.quantised(Quantised(code, space.latent_ID, space.codebook_LKD, {}, {}), rule, np.arange(30))
    figures = uniqueness(to_matrix(found.tokens))
    assert (figures["colliding_items"] == 0) == (rule != "keep")
    before = uniqueness(code)
    assert found.notes["collisions"]["colliding_items_before"] == before["colliding_items"] > 0
    assert found.notes["collisions"]["collision_rate_before"] == before["collision_rate"]
    if rule == "suffix":
        assert [path[:2] for path in found.codes.to_pylist()] == code.tolist()
