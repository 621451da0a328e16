"""Hiding items by passing over branches equals a search over the restricted trie, row by row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import brute_force_paths, llama

from ilrec_cli.lm.allowed import Allowed
from ilrec_cli.lm.decode import beam_search, expand
from ilrec_cli.trie import ItemTrie


@pytest.mark.parametrize("beams", [1, 4, 20])
@pytest.mark.parametrize("seed", range(4))
def test_lists_equal_those_of_a_restricted_trie(seed: int, beams: int) -> None:
    """Variable lengths and shared paths; rows with much hidden, little, all but one, nothing."""
    rng = np.random.default_rng(seed)
    model = llama(vocabulary=24, seed=seed)
    trie = ItemTrie.build(brute_force_paths(rng, 40, range(3, 9), 3, end=1))
    allowed_BI = torch.from_numpy(rng.random((4, 40)) < np.array([0.1, 0.9, 0.0, 1.0])[:, None])
    allowed_BI[2, 7] = True
    allowed_BI[0, 3] = True
    popularity = torch.from_numpy(rng.integers(0, 3, 40))
    input_BS = torch.from_numpy(rng.integers(3, 24, (4, 6)))
    mask = Allowed(trie, allowed_BI)
    leaf_BK, score_BK = beam_search(
        model, input_BS, torch.ones_like(input_BS), trie, beams=beams, step_scores=mask.step_scores
    )
    item_Bk = mask.expand(leaf_BK, popularity, 10)
    for row in range(4):
        kept = allowed_BI[row].nonzero().flatten()
        own = trie.restrict(kept)
        ids = input_BS[row : row + 1]
        leaf, score = beam_search(model, ids, torch.ones_like(ids), own, beams=beams)
        assert item_Bk[row].tolist() == expand(leaf, own, popularity, 10)[0].tolist()
        torch.testing.assert_close(score_BK[row], score[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("normalize", ["vocab", "ids", "trie"])
def test_what_is_hidden_changes_no_other_score(normalize: str) -> None:
    rng = np.random.default_rng(0)
    model = llama(vocabulary=24)
    trie = ItemTrie.build(brute_force_paths(rng, 30, range(3, 9), 2, end=1))
    ids = torch.from_numpy(rng.integers(3, 24, (1, 6)))
    search = {"beams": 30, "normalize": normalize}
    leaf, score = beam_search(model, ids, torch.ones_like(ids), trie, **search)  # type: ignore[arg-type]
    all_scores = dict(zip(leaf[0].tolist(), score[0].tolist(), strict=True))
    allowed = torch.ones(1, 30, dtype=torch.bool)
    hidden_leaf = int(leaf[0, 0])
    allowed[0, trie.leaf_of(torch.arange(30)) == hidden_leaf] = False
    hook = Allowed(trie, allowed).step_scores
    leaf, score = beam_search(model, ids, torch.ones_like(ids), trie, step_scores=hook, **search)  # type: ignore[arg-type]
    found = dict(zip(leaf[0].tolist(), score[0].tolist(), strict=True))
    del all_scores[hidden_leaf]
    found.pop(-1, None)
    all_scores.pop(-1, None)
    assert found == pytest.approx(all_scores, abs=1e-5)


def test_an_item_is_hidden_though_another_shares_its_path() -> None:
    trie = ItemTrie.build([[5, 1], [5, 1], [6, 1]])
    allowed = Allowed(trie, torch.tensor([[False, True, True]]))
    leaf = trie.leaf_of(torch.tensor([[0, 2]]).flatten())[None]
    assert allowed.expand(leaf, torch.tensor([9, 1, 1]), 3).tolist() == [[1, 2, -1]]
