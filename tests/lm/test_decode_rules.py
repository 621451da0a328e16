"""Beam search's rules: company, ties, lengths, short supply and what is refused; and leaves listed as items."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import brute_force_paths, llama
from searching import END, catalogue, prompts
from torch import Tensor

from ilrec_cli.errors import UserError
from ilrec_cli.lm.decode import beam_search, expand
from ilrec_cli.trie import ItemTrie


def test_padding_and_company_change_no_score() -> None:
    rng = np.random.default_rng(2)
    model, trie = llama(), ItemTrie.build(brute_force_paths(rng, 60, range(3, 14), 3, END))
    ids, mask = prompts(rng, 5)
    together = beam_search(model, ids, mask, trie, beams=8)
    for row in range(5):
        real = mask[row].bool()
        alone = beam_search(model, ids[row][real][None], mask[row][real][None], trie, beams=8)
        torch.testing.assert_close(alone[1][0], together[1][row], rtol=0, atol=1e-5)
        assert alone[0][0].tolist() == together[0][row].tolist()


def test_equal_scores_go_to_the_lower_leaf() -> None:
    model = llama()
    torch.nn.init.zeros_(model.lm_head.weight)  # every token is equally likely
    trie = ItemTrie.build([[a, b, END] for a in range(3, 9) for b in range(3, 9)])
    ids, mask = prompts(np.random.default_rng(0), 3)
    leaf_BK, _ = beam_search(model, ids, mask, trie, beams=7)
    lowest = sorted(trie.leaf_of(torch.arange(36)).tolist())[:7]
    assert leaf_BK.tolist() == [lowest] * 3


def test_length_penalty_divides_by_the_path_length() -> None:
    rng = np.random.default_rng(4)
    model, trie = llama(), ItemTrie.build(brute_force_paths(rng, 12, range(3, 9), 4, END))
    ids, mask = prompts(rng, 1)
    plain = dict(zip(*(part[0].tolist() for part in beam_search(model, ids, mask, trie, beams=30)), strict=True))
    depth = {trie.leaf_of(torch.tensor([item])).item(): 0 for item in range(12)}
    frontier, level = torch.tensor([0]), 0
    while len(frontier):
        depth |= {node: level for node in frontier.tolist() if node in depth}
        frontier, level = trie.children(frontier)[1].flatten(), level + 1
        frontier = frontier[frontier >= 0]
    leaf, score = beam_search(model, ids, mask, trie, beams=30, length_penalty=1.0)
    for node, value in zip(leaf[0].tolist(), score[0].tolist(), strict=True):
        if node >= 0:
            assert value == pytest.approx(plain[node] / depth[node], abs=1e-5)


def test_weights_that_are_no_numbers_are_not_ranked() -> None:
    model, trie = llama(), ItemTrie.build([[3, END], [4, END]])
    torch.nn.init.constant_(model.lm_head.weight, float("nan"))
    ids, mask = prompts(np.random.default_rng(0), 1)
    with pytest.raises(ValueError, match="NaN"):
        beam_search(model, ids, mask, trie, beams=2)


def test_searches_that_make_no_sense_are_refused() -> None:
    trie = ItemTrie.build([[5, 7, 1], [6, 1]])
    ids = torch.tensor([[3, 4]])
    for wrong in ({"beams": 0}, {"beams": 2, "normalize": "all"}):
        with pytest.raises(ValueError, match="expected beams >= 1 and one of"):
            beam_search(llama(), ids, torch.ones_like(ids), trie, **wrong)


def test_items_of_another_vocabulary_are_refused() -> None:
    ids = torch.tensor([[3, 4]])
    with pytest.raises(UserError, match="items use token 60, the model has 60"):
        beam_search(llama(), ids, torch.ones_like(ids), ItemTrie.build([[5, END], [60, END]]), beams=2)


def test_prompts_of_similar_length_are_searched_together_and_nothing_shows() -> None:
    rng = np.random.default_rng(6)
    model, trie = llama(), catalogue(rng, "titles")
    ids, mask = prompts(rng, 40, longest=30)
    leaf_BK, score_BK = beam_search(model, ids, mask, trie, beams=5)

    def unchanged(node_BK: Tensor, token_BKC: Tensor, log_prob_BKC: Tensor) -> Tensor:
        assert len(node_BK) == 40, "row b is prompt b"
        return log_prob_BKC

    together = beam_search(model, ids, mask, trie, beams=5, step_scores=unchanged)
    assert torch.equal(leaf_BK, together[0])
    torch.testing.assert_close(score_BK, together[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("normalize", ["vocab", "trie"])
def test_more_beams_than_leaves_change_nothing_and_cost_nothing(normalize: Any) -> None:
    """Whoever asks for every item of a small catalogue, and for many more, gets the same bits and the rest as padding."""
    rng = np.random.default_rng(8)
    model, trie = llama(), catalogue(rng, "titles", 30)
    ids, mask = prompts(rng, 3)
    leaf_BK, score_BK = beam_search(model, ids, mask, trie, beams=trie.leaves, normalize=normalize)
    assert (leaf_BK >= 0).all()
    more = beam_search(model, ids, mask, trie, beams=3_000_000, normalize=normalize)
    assert more[0].shape == more[1].shape == (3, 3_000_000)
    assert torch.equal(more[0][:, : trie.leaves], leaf_BK)
    assert torch.equal(more[1][:, : trie.leaves], score_BK)
    assert (more[0][:, trie.leaves :] == -1).all()
    assert torch.isneginf(more[1][:, trie.leaves :]).all()


def test_expand_lists_popular_items_of_a_leaf_first() -> None:
    paths = [[5, END], [4, END], [5, END], [6, END], [5, END]]
    trie = ItemTrie.build(paths)
    leaf = trie.leaf_of(torch.arange(5))
    popularity = torch.tensor([3.0, 1.0, 9.0, 1.0, 3.0])
    leaf_BK = torch.stack([leaf[[3, 0, 1]], torch.tensor([leaf[1], -1, -1])])
    assert expand(leaf_BK, trie, popularity, 4).tolist() == [[3, 2, 0, 4], [1, -1, -1, -1]]
    assert expand(leaf_BK, trie, popularity, 7).tolist() == [[3, 2, 0, 4, 1, -1, -1], [1, -1, -1, -1, -1, -1, -1]]


def test_expand_takes_arrays_and_32_bit_leaves() -> None:
    trie = ItemTrie.build([[5, END], [4, END]])
    leaf = trie.leaf_of(torch.tensor([[1, 0]])).int()
    assert expand(leaf, trie, np.array([1.0, 2.0]), 2).tolist() == [[1, 0]]


def test_expand_against_a_loop() -> None:
    rng = np.random.default_rng(0)
    paths = [[*row, END] for row in rng.integers(3, 6, size=(40, 2)).tolist()]
    trie = ItemTrie.build(paths)
    popularity = torch.from_numpy(rng.integers(0, 4, size=40)).double()
    leaves = [node for node in range(len(trie)) if trie.is_leaf(torch.tensor([node]))]
    leaf_BK = torch.tensor([rng.permutation(leaves)[:5].tolist() for _ in range(6)])
    found = expand(leaf_BK, trie, popularity, 12)
    for row, nodes in zip(found.tolist(), leaf_BK.tolist(), strict=True):
        expected: list[int] = []
        for node in nodes:
            members = [item for item in range(40) if trie.leaf_of(torch.tensor([item])).item() == node]
            expected += sorted(members, key=lambda item: (-popularity[item].item(), item))
        assert row == (expected + [-1] * 12)[:12]
