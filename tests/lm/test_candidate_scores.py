"""Candidates scored behind one prompt: every score is that of the whole sequence run by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import brute_force_paths, family, llama, qwen2
from hypothesis import given, settings
from hypothesis import strategies as st

from ilrec_cli.lm import candidate_scores as scores
from ilrec_cli.lm.exact import exact_scores
from ilrec_cli.trie import ItemTrie

END, PAD = 1, 2


def padded_paths(paths: list[list[list[int]]]) -> np.ndarray:
    longest = max(len(path) for row in paths for path in row)
    return np.array([[path + [-1] * (longest - len(path)) for path in row] for row in paths])


def random_rows(rng: np.random.Generator, rows: int, candidates: int, longest: int = 5) -> tuple[Any, Any, np.ndarray]:
    """Prompts of different lengths, padded on the left, and each row's paths: few tokens, so that beginnings are shared."""
    length = rng.integers(1, 8, size=rows)
    input_BS, mask_BS = np.full((rows, 7), PAD), np.zeros((rows, 7), dtype=np.int64)
    for row, count in enumerate(length):
        input_BS[row, 7 - count :], mask_BS[row, 7 - count :] = rng.integers(3, 60, size=count), 1
    paths = [brute_force_paths(rng, candidates, range(3, 6), longest, END) for _ in range(rows)]
    return torch.from_numpy(input_BS), torch.from_numpy(mask_BS), padded_paths(paths)


def one_by_one(
    model: Any, input_BS: Any, mask_BS: Any, path_BCD: np.ndarray, scope: list[int] | None = None
) -> np.ndarray:
    """A forward pass for every candidate of every row, in float64 after the logits."""
    found = np.zeros(path_BCD.shape[:2])
    for row in range(len(path_BCD)):
        prompt = input_BS[row][mask_BS[row].bool()].tolist()
        for place, padded in enumerate(path_BCD[row].tolist()):
            path = [token for token in padded if token >= 0]
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([prompt + path])).logits[0].double().numpy()
            for step, token in enumerate(path):
                at = logits[len(prompt) + step - 1]
                over = at if scope is None else at[scope]
                found[row, place] += at[token] - over.max() - np.log(np.exp(over - over.max()).sum())
    return found


@pytest.mark.parametrize("model", [llama(), qwen2()], ids=["llama", "qwen2"])
@pytest.mark.parametrize("scope", [None, [1, 3, 4, 5]], ids=["vocab", "ids"])
def test_scores_are_those_of_whole_sequences(model: Any, scope: list[int] | None) -> None:
    input_BS, mask_BS, path_BCD = random_rows(np.random.default_rng(0), 4, 6)
    expected = one_by_one(model, input_BS, mask_BS, path_BCD, scope)
    scope_U = None if scope is None else torch.tensor(scope)
    found = scores.candidate_scores(model, input_BS, mask_BS, path_BCD, scope_U=scope_U)
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-4)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(found.numpy(), np.roll(expected, 1, axis=1), atol=2e-4)


def test_architectures_without_masks_of_trees_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = family("Mistral")
    input_BS, mask_BS, path_BCD = random_rows(np.random.default_rng(1), 3, 5)
    expected = scores.candidate_scores(model, input_BS, mask_BS, path_BCD)
    from ilrec_cli.lm import tree

    monkeypatch.setattr(scores, "open_prompts", lambda model, ids, mask, room: tree.Copies(model, ids, mask))
    found = scores.candidate_scores(model, input_BS, mask_BS, path_BCD)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)


def test_memory_bounds_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    model = llama()
    input_BS, mask_BS, path_BCD = random_rows(np.random.default_rng(2), 5, 4)
    expected = scores.candidate_scores(model, input_BS, mask_BS, path_BCD)
    monkeypatch.setattr(scores, "CELLS", 1)
    monkeypatch.setattr(scores, "FLOATS", 1)
    torch.testing.assert_close(scores.candidate_scores(model, input_BS, mask_BS, path_BCD), expected, rtol=0, atol=1e-4)


def test_the_whole_catalogue_as_candidates_has_its_exact_scores() -> None:
    model, rng = llama(), np.random.default_rng(3)
    input_BS, mask_BS, _ = random_rows(rng, 3, 2)
    paths = [list(path) for path in {tuple(path) for path in brute_force_paths(rng, 25, range(3, 7), 4, END)}]
    trie = ItemTrie.build(paths)
    leaf_L, score_BL = exact_scores(model, input_BS, mask_BS, trie)
    found = scores.candidate_scores(model, input_BS, mask_BS, padded_paths([paths] * 3))
    place = torch.searchsorted(leaf_L, trie.leaf_of(torch.arange(len(paths))))
    torch.testing.assert_close(found, score_BL[:, place], rtol=0, atol=2e-4)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 6))
def test_a_tree_holds_each_beginning_once_and_leads_to_every_token(seed: int, rows: int, candidates: int) -> None:
    _, _, path_BCD = random_rows(np.random.default_rng(seed), rows, candidates)
    tree = scores.trees(path_BCD)
    for row, paths in enumerate(path_BCD.tolist()):
        paths = [[token for token in path if token >= 0] for path in paths]
        beginnings = {tuple(path[:end]) for path in paths for end in range(1, len(path))}
        assert tree.used_BW[row].sum() == len(beginnings)
        for place, path in enumerate(paths):
            assert (tree.owner_BCD[row, place] >= 0).sum() == len(path)
            for step in range(len(path)):
                above, column = [], tree.owner_BCD[row, place, step] - 1
                while column >= 0:
                    assert tree.used_BW[row, column]
                    assert tree.depth_W[column] == step - len(above) - 1
                    above.append(int(tree.token_BW[row, column]))
                    column = tree.parent_BW[row, column]
                assert above[::-1] == path[:step]
