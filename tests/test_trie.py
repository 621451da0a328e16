"""ItemTrie against dictionaries of prefixes and against sums in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import brute_force_paths
from hypothesis import given, settings
from hypothesis import strategies as st

from ilrec_cli.trie import ItemTrie

END = 0
path_lists = st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=4), min_size=1, max_size=25)


def closed(paths: list[list[int]]) -> list[list[int]]:
    return [[*path, END] for path in paths]


def walk(trie: ItemTrie, prefix: tuple[int, ...]) -> torch.Tensor:
    node = torch.tensor([0])
    for token in prefix:
        node = trie.step(node, torch.tensor([token]))
    return node


@given(path_lists)
def test_every_prefix_is_one_node_with_its_items_and_children(paths: list[list[int]]) -> None:
    paths = closed(paths)
    trie = ItemTrie.build(paths)
    prefixes = {tuple(path[:depth]) for path in paths for depth in range(len(path) + 1)}
    assert len(trie) == len(prefixes)
    assert trie.max_depth == max(map(len, paths))
    seen = set()
    for prefix in prefixes:
        node = walk(trie, prefix)
        seen.add(node.item())
        below = [item for item, path in enumerate(paths) if tuple(path[: len(prefix)]) == prefix]
        lo, hi = trie.range(node)
        assert sorted(trie.order[lo:hi].tolist()) == below
        tokens, nodes = trie.children(node)
        expected = sorted({paths[item][len(prefix)] for item in below if len(paths[item]) > len(prefix)})
        assert tokens[0].tolist() == expected
        assert nodes[0].tolist() == [walk(trie, (*prefix, token)).item() for token in expected]
        assert trie.is_leaf(node).item() == (not expected)
    assert seen == set(range(len(trie))), "nodes are numbered without gaps"


@given(path_lists, st.lists(st.integers(-1, 6), min_size=1, max_size=6))
def test_a_token_that_continues_no_item_leads_nowhere(paths: list[list[int]], tokens: list[int]) -> None:
    paths = closed(paths)
    trie = ItemTrie.build(paths)
    legal = any(path[: len(tokens)] == tokens for path in paths)
    assert (walk(trie, tuple(tokens)).item() >= 0) == legal


@given(path_lists)
def test_equal_paths_share_a_leaf(paths: list[list[int]]) -> None:
    paths = closed(paths)
    trie = ItemTrie.build(paths)
    leaves = trie.leaf_of(torch.arange(len(paths))).tolist()
    for first, path in enumerate(paths):
        for second, other in enumerate(paths):
            assert (leaves[first] == leaves[second]) == (path == other)


@given(path_lists, st.data())
def test_restrict_keeps_the_items_numbers(paths: list[list[int]], data: st.DataObject) -> None:
    paths = closed(paths)
    kept = sorted(data.draw(st.sets(st.integers(0, len(paths) - 1), min_size=1)))
    small = ItemTrie.build(paths).restrict(kept)
    alone = ItemTrie.build([paths[item] for item in kept])
    assert len(small) == len(alone)
    assert small.order.tolist() == [kept[item] for item in alone.order.tolist()]
    gone = [item for item in range(len(paths)) if item not in kept]
    assert (small.leaf_of(torch.tensor(gone, dtype=torch.long)) == -1).all()
    for item in kept:
        assert small.leaf_of(torch.tensor([item])).item() == walk(small, tuple(paths[item])).item()


def test_flat_arrays_and_sequences_build_the_same() -> None:
    paths = brute_force_paths(np.random.default_rng(0), 50, range(1, 9), 4, END)
    flat, offsets = np.concatenate(paths), np.cumsum([0, *map(len, paths)])
    one = ItemTrie.build(paths)
    for two in (
        ItemTrie.build((flat, offsets)),
        ItemTrie.build(flat, offsets),
        ItemTrie.build(tuple(map(tuple, paths))),
    ):
        assert torch.equal(one.order, two.order)
        assert torch.equal(one.leaf_of(torch.arange(50)), two.leaf_of(torch.arange(50)))


@pytest.mark.parametrize("offsets", [[1, 3], [0, 2], [0, 3, 2, 3], [0, 4]])
def test_offsets_that_do_not_fit_are_refused(offsets: list[int]) -> None:
    with pytest.raises(ValueError, match="offsets must rise"):
        ItemTrie.build(np.array([5, 7, 2]), np.array(offsets))


def test_minus_one_is_nowhere() -> None:
    trie = ItemTrie.build([[5, 7, 2], [5, 8, 2]])
    none = torch.tensor([-1])
    assert trie.leaf_of(none).item() == -1
    assert trie.step(none, torch.tensor([5])).item() == -1
    assert trie.step(torch.tensor([0]), none).item() == -1
    assert trie.children(none)[0].shape == (1, 0)
    assert [part.item() for part in trie.range(none)] == [0, 0]
    assert not trie.is_leaf(none).item()
    assert [part.tolist() for part in trie.children(torch.tensor([1, -1]))] == [[[7, 8], [-1, -1]], [[2, 3], [-1, -1]]]


def test_items_that_share_a_leaf_count_once_among_the_leaves() -> None:
    trie = ItemTrie.build([[5, 7, 2], [5, 8, 2], [6, 2], [5, 7, 2]])
    assert (trie.items, trie.leaves) == (4, 3)
    assert trie.restrict([0, 3]).leaves == 1


def test_a_pair_of_paths_is_a_pair_of_paths() -> None:
    assert ItemTrie.build((np.array([5, 7, 2]), np.array([5, 8, 2]))).items == 2
    assert ItemTrie.build(((5, 7, 2), (5, 8, 2))).items == 2
    assert ItemTrie.build(torch.tensor([[5, 7, 2], [5, 8, 2]])).items == 2


def test_32_bit_numbers_do_not_overflow() -> None:
    trie = ItemTrie.build([[100_000 + item % 300, 120_000 + item // 300, 1] for item in range(90_000)])
    node = trie.step(torch.zeros(1, dtype=torch.int32), torch.tensor([100_299], dtype=torch.int32)).int()
    assert trie.step(node, torch.tensor([120_299], dtype=torch.int32)).item() > 0


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([[1, 2], []], "item 1 is empty"),
        ([[5, 6, 7], [5, 6]], "item 1 is a proper prefix of the path of item 0"),
        ([[5], [5, 0]], "item 0 is a proper prefix of the path of item 1"),
        ([[1, -2]], "item 0 has a negative token"),
        ([], "at least one path"),
    ],
)
def test_paths_that_are_no_tree_of_items_are_refused(paths: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ItemTrie.build(paths)


def reward_oracle(paths: list[list[int]], prefix: list[int], prob: np.ndarray) -> dict[int, float]:
    """r_v of eq. 10 by summing items one by one."""
    below = [item for item, path in enumerate(paths) if path[: len(prefix)] == prefix and len(path) > len(prefix)]
    total = sum(float(prob[item]) for item in below)
    rewards: dict[int, float] = {}
    for item in below:
        token = paths[item][len(prefix)]
        share = float(prob[item]) / total if total > 0 else 1 / len(below)
        rewards[token] = rewards.get(token, 0.0) + share
    return rewards


@pytest.mark.parametrize("deviation", [0.0, 2.0, 6.0, 12.0, 300.0])
def test_child_mass_is_the_ratio_of_summed_probabilities(deviation: float) -> None:
    rng = np.random.default_rng(int(deviation))
    paths = brute_force_paths(rng, 400, range(1, 7), 4, END)
    trie = ItemTrie.build(paths)
    score = torch.from_numpy(rng.normal(size=(5, 400)) * deviation)
    prob = score.double().softmax(1)
    prefixes = [path[:depth] for path in paths[:120] for depth in range(len(path))]
    nodes = torch.cat([walk(trie, tuple(prefix)) for prefix in prefixes])
    rows = torch.from_numpy(rng.integers(0, 5, size=len(prefixes)))
    tokens, mass = trie.child_mass(nodes, rows, prob)
    assert mass.dtype == torch.float64
    for index, prefix in enumerate(prefixes):
        expected = reward_oracle(paths, prefix, prob[rows[index]].numpy())
        real = tokens[index] >= 0
        assert tokens[index][real].tolist() == sorted(expected)
        np.testing.assert_allclose(mass[index][real], [expected[token] for token in sorted(expected)], atol=1e-9)
        assert (mass[index][~real] == 0).all()
        assert mass[index].sum().item() == pytest.approx(1, abs=1e-12)


def test_a_prefix_of_zero_mass_shares_by_number_of_items() -> None:
    trie = ItemTrie.build([[1, 1, 0], [1, 2, 0], [1, 2, 3, 0], [2, 0]])
    prob = torch.tensor([[0.0, 0.0, 0.0, 1.0]])
    tokens, mass = trie.child_mass(trie.step(torch.tensor([0]), torch.tensor([1])), torch.tensor([0]), prob)
    assert tokens.tolist() == [[1, 2]]
    torch.testing.assert_close(mass, torch.tensor([[1 / 3, 2 / 3]], dtype=torch.float64))


def test_child_mass_in_slices_equals_child_mass_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    trie = ItemTrie.build(brute_force_paths(rng, 200, range(1, 5), 4, END))
    prob = torch.from_numpy(rng.normal(size=(4, 200)) * 8).softmax(1)
    nodes, rows = torch.from_numpy(rng.integers(0, len(trie), 90)), torch.from_numpy(rng.integers(0, 4, 90))
    whole = trie.child_mass(nodes, rows, prob)[1]
    monkeypatch.setattr("ilrec_cli.trie.EXACT_SUM_ITEMS", 7)
    torch.testing.assert_close(trie.child_mass(nodes, rows, prob)[1], whole, rtol=0, atol=1e-15)


def test_child_mass_of_ordered_probabilities_and_of_nodes_without_children() -> None:
    rng = np.random.default_rng(4)
    trie = ItemTrie.build(brute_force_paths(rng, 200, range(1, 5), 4, END))
    prob = torch.from_numpy(rng.normal(size=(4, 200)) * 8).softmax(1)
    nodes, rows = torch.arange(-1, len(trie)), torch.from_numpy(rng.integers(0, 4, len(trie) + 1))
    tokens, mass = trie.child_mass(nodes, rows, prob)
    found = trie.child_mass(nodes, rows, prob[:, trie.order], ordered=True)
    assert torch.equal(found[0], tokens)
    assert torch.equal(found[1], mass)
    childless = trie.is_leaf(nodes) | (nodes < 0)
    assert (mass[childless] == 0).all()
    torch.testing.assert_close(mass.sum(1), (~childless).double(), rtol=0, atol=1e-12)


def test_naive_float32_differences_would_fail_the_oracle() -> None:
    """The deliberate fault: what `child_mass` guards against is real on this data."""
    rng = np.random.default_rng(12)
    paths = brute_force_paths(rng, 400, range(1, 7), 4, END)
    trie = ItemTrie.build(paths)
    prob = torch.from_numpy(rng.normal(size=(1, 400)) * 12).softmax(1)
    cumulative = torch.cat([torch.zeros(1), prob[0, trie.order].float().cumsum(0)])
    nodes = torch.arange(len(trie))
    lo, hi = trie.range(nodes)
    masses = cumulative[hi] - cumulative[lo]
    exact = torch.stack([prob[0, trie.order[a:b]].sum() for a, b in zip(lo.tolist(), hi.tolist(), strict=True)])
    assert ((masses - exact).abs() > 0.5 * exact).any()


@settings(max_examples=20)
@given(path_lists, st.randoms(use_true_random=False))
def test_permuting_items_permutes_the_trie(paths: list[list[int]], random: object) -> None:
    paths = closed(paths)
    order = list(range(len(paths)))
    random.shuffle(order)  # type: ignore[attr-defined]
    one, two = ItemTrie.build(paths), ItemTrie.build([paths[item] for item in order])
    assert one.leaf_of(torch.tensor(order)).tolist() == two.leaf_of(torch.arange(len(paths))).tolist()


def test_queries_take_arrays_and_lists() -> None:
    trie = ItemTrie.build([[5, 7, 2], [5, 8, 2], [6, 2]])
    assert (
        trie.step(np.array([0, 1], dtype=np.int32), [5, 8]).tolist()
        == trie.step(torch.tensor([0, 1]), torch.tensor([5, 8])).tolist()
    )
    assert trie.leaf_of([0, -1]).tolist() == [int(trie.leaf_of(torch.tensor([0]))), -1]
    assert trie.is_leaf(np.array([0, -1])).tolist() == [False, False]
    assert trie.range([0])[1].tolist() == [3]
    token, mass = trie.child_mass(np.array([0]), [0], np.array([[0.5, 0.25, 0.25]]))
    assert (token.tolist(), mass.tolist()) == ([[5, 6]], [[0.75, 0.25]])


def test_parents_tokens_and_settled_nodes() -> None:
    trie = ItemTrie.build([[5, 7, 2], [5, 8, 2], [6, 9, 2], [6, 9, 2]])
    nodes = torch.arange(len(trie))
    for node, (parent, token) in enumerate(zip(trie.parents().tolist(), trie.token_of(nodes).tolist(), strict=True)):
        if node:
            assert trie.step(torch.tensor([parent]), torch.tensor([token])).tolist() == [node]
    assert (trie.parents()[0], trie.token_of(torch.tensor([0]))) == (-1, -1)
    below = [len(set(trie.leaf_of(trie.order[lo:hi]).tolist())) for lo, hi in zip(*trie.range(nodes), strict=True)]
    assert trie.is_settled(nodes).tolist() == [count == 1 for count in below]
    assert trie.is_settled(torch.tensor([-1])).tolist() == [False]
