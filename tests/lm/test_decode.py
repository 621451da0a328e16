"""Beam search against transformers' own, against exhaustive scoring, and its rules for ties and short supply."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import brute_force_paths, llama, qwen2
from torch import Tensor

from ilrec_cli.lm.decode import beam_search, expand
from ilrec_cli.trie import ItemTrie

VOCABULARY, END, PAD = 60, 1, 2


def prompts(rng: Any, count: int, longest: int = 9) -> tuple[Tensor, Tensor]:
    """Left-padded random prompts of mixed length."""
    length_B = rng.integers(2, longest + 1, size=count)
    length_B[0] = longest
    mask_BS = torch.from_numpy(np.arange(longest) >= longest - length_B[:, None]).long()
    ids = torch.from_numpy(rng.integers(3, VOCABULARY, size=(count, longest)))
    return torch.where(mask_BS.bool(), ids, PAD), mask_BS


def by_generate(model: Any, ids: Tensor, mask: Tensor, trie: ItemTrie, beams: int) -> tuple[list[list[int]], Tensor]:
    """Leaves and scores of transformers' beam search with a prefix function."""
    from transformers import GenerationConfig

    start = ids.shape[1]

    def allowed(_: int, sequence: Tensor) -> list[int]:
        node = torch.tensor([0])
        for token in sequence[start:]:
            node = trie.step(node, token[None])
        return [token for token in trie.children(node)[0].flatten().tolist() if token >= 0] or [END]

    settings = GenerationConfig(
        num_beams=beams, num_return_sequences=beams, max_new_tokens=trie.max_depth, length_penalty=0.0,
        early_stopping=False, do_sample=False, eos_token_id=END, pad_token_id=PAD,
        output_scores=True, return_dict_in_generate=True,
    )  # fmt: skip
    output = model.generate(ids, attention_mask=mask, generation_config=settings, prefix_allowed_tokens_fn=allowed)
    leaves = []
    for sequence in output.sequences[:, start:]:
        node = torch.tensor([0])
        for token in sequence:
            node = node if trie.is_leaf(node).item() else trie.step(node, token[None])
        leaves.append(node.item())
    count = len(ids)
    return [leaves[row * beams : (row + 1) * beams] for row in range(count)], output.sequences_scores.view(count, beams)


@pytest.mark.parametrize("family", [llama, qwen2], ids=["llama", "qwen2"])
@pytest.mark.parametrize("longest", [3, 6], ids=["codes", "titles"])
@pytest.mark.parametrize("beams", [2, 5, 20])
def test_equals_generate_with_a_prefix_function(family: Any, longest: int, beams: int) -> None:
    rng = np.random.default_rng(beams)
    model = family()
    if longest == 3:
        paths = [[*row, END] for row in rng.integers(3, 14, size=(150, 3)).tolist()]
    else:
        paths = brute_force_paths(rng, 150, range(3, 14), longest, END)
    trie = ItemTrie.build(paths)
    ids, mask = prompts(rng, 6)
    leaf_BK, score_BK = beam_search(model, ids, mask, trie, beams=beams)
    leaves, scores = by_generate(model, ids, mask, trie, beams)
    for row in range(len(ids)):
        for place in range(beams):
            if scores[row, place] < -1e8:  # generate ran out of items
                assert leaf_BK[row, place] == -1
                continue
            assert score_BK[row, place].item() == pytest.approx(scores[row, place].item(), abs=1e-4)
            if leaf_BK[row, place].item() != leaves[row][place]:  # only where two scores are nearly equal
                other = leaves[row].index(leaf_BK[row, place].item())
                assert abs(scores[row, other] - scores[row, place]) < 1e-4


def exhaustive(
    model: Any, ids: Tensor, mask: Tensor, trie: ItemTrie, paths: list[list[int]], normalize: str
) -> dict[int, float]:
    """Score of every leaf for a single prompt: one full forward per path, softmax over the asked-for tokens."""
    prompt = ids[0][mask[0].bool()].tolist()
    used = sorted({token for path in paths for token in path})
    scores = {}
    for path in {tuple(path) for path in paths}:
        logits = model(input_ids=torch.tensor([prompt + list(path)])).logits[0, len(prompt) - 1 : -1].double()
        total, node = 0.0, torch.tensor([0])
        for step, token in enumerate(path):
            children = [t for t in trie.children(node)[0].flatten().tolist() if t >= 0]
            over = {"vocab": list(range(VOCABULARY)), "ids": used, "trie": children}[normalize]
            total += (logits[step, token] - logits[step, over].logsumexp(0)).item()
            node = trie.step(node, torch.tensor([token]))
        scores[node.item()] = total
    return scores


@pytest.mark.parametrize("normalize", ["vocab", "ids", "trie"])
@torch.no_grad()
def test_equals_scoring_every_item(normalize: Any) -> None:
    rng = np.random.default_rng(1)
    model = llama()
    paths = brute_force_paths(rng, 25, range(3, 9), 3, END)
    trie = ItemTrie.build(paths)
    ids, mask = prompts(rng, 1)
    expected = exhaustive(model, ids, mask, trie, paths, normalize)
    leaf_BK, score_BK = beam_search(model, ids, mask, trie, beams=40, normalize=normalize)
    found = {leaf: score for leaf, score in zip(leaf_BK[0].tolist(), score_BK[0].tolist(), strict=True) if leaf >= 0}
    assert found.keys() == expected.keys(), "with enough beams every item is found"
    for leaf, score in expected.items():
        assert found[leaf] == pytest.approx(score, abs=1e-4)
    assert list(found) == sorted(found, key=lambda leaf: -found[leaf])
    assert (leaf_BK[0, len(expected) :] == -1).all()
    assert torch.isneginf(score_BK[0, len(expected) :]).all()


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


def test_step_scores_see_every_candidate_and_change_the_result() -> None:
    rng = np.random.default_rng(5)
    model, trie = llama(), ItemTrie.build([[a, b, END] for a in range(3, 7) for b in range(3, 7)])
    ids, mask = prompts(rng, 2)
    favourite = trie.leaf_of(torch.tensor([9])).item()

    def only_item_9(node_BK: Tensor, token_BKC: Tensor, log_prob_BKC: Tensor) -> Tensor:
        wanted = {0: 5, trie.step(torch.tensor([0]), torch.tensor([5])).item(): 4}
        bonus = torch.zeros_like(log_prob_BKC)
        for row, place in np.ndindex(*node_BK.shape):
            bonus[row, place] = (token_BKC[row, place] == wanted.get(node_BK[row, place].item(), END)) * 50.0
        return log_prob_BKC + bonus

    leaf_BK, _ = beam_search(model, ids, mask, trie, beams=3, step_scores=only_item_9)
    assert leaf_BK[:, 0].tolist() == [favourite, favourite]


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


def test_weights_that_are_no_numbers_are_not_ranked() -> None:
    model, trie = llama(), ItemTrie.build([[3, END], [4, END]])
    torch.nn.init.constant_(model.lm_head.weight, float("nan"))
    ids, mask = prompts(np.random.default_rng(0), 1)
    with pytest.raises(ValueError, match="NaN"):
        beam_search(model, ids, mask, trie, beams=2)


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


def test_searches_that_make_no_sense_are_refused() -> None:
    trie = ItemTrie.build([[5, 7, 1], [6, 1]])
    ids = torch.tensor([[3, 4]])
    for wrong in ({"beams": 0}, {"beams": 2, "normalize": "all"}):
        with pytest.raises(ValueError, match="expected beams >= 1 and one of"):
            beam_search(llama(), ids, torch.ones_like(ids), trie, **wrong)
