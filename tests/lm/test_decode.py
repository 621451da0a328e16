"""Beam search against transformers' own and against exhaustive scoring, however the model is held."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import brute_force_paths, family, llama
from searching import END, VOCABULARY, by_generate, catalogue, exhaustive, prompts
from torch import Tensor

from ilrec_cli.lm.decode import beam_search
from ilrec_cli.trie import ItemTrie


def trained(model: Any, rng: Any, trie: ItemTrie) -> Any:
    """A model that has learned some of the items by heart: its probabilities are far from even."""
    path = torch.from_numpy(trie._paths(np.arange(20))).clamp(min=END)
    prompt = torch.from_numpy(rng.integers(3, VOCABULARY, size=(20, 4)))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        model(
            input_ids=torch.cat([prompt, path], 1), labels=torch.cat([prompt.clone().fill_(-100), path], 1)
        ).loss.backward()
        optimizer.step()
    return model.eval()


def compare_with_generate(model: Any, trie: ItemTrie, count: int, beams: int, rng: Any) -> None:
    """Leaves, order up to differences under 1e-5, scores to 1e-4."""
    ids, mask = prompts(rng, count)
    leaf_BK, score_BK = beam_search(model, ids, mask, trie, beams=beams)
    leaves, scores = by_generate(model, ids, mask, trie, beams)
    for row in range(count):
        real = scores[row] > -1e8  # otherwise generate ran out of items
        assert (leaf_BK[row][~real] == -1).all()
        torch.testing.assert_close(score_BK[row][real], scores[row][real], rtol=0, atol=1e-4)
        for place in (leaf_BK[row] != torch.tensor(leaves[row])).logical_and(real).nonzero()[:, 0].tolist():
            other = leaves[row].index(leaf_BK[row, place].item())
            assert abs(scores[row, other] - scores[row, place]) < 1e-5


@pytest.mark.parametrize("name", ["Llama", "Qwen2", "Mistral", "Gemma2"])
@pytest.mark.parametrize("kind", ["codes", "titles"])
@pytest.mark.parametrize("beams", [1, 5, 20])
def test_equals_generate_with_a_prefix_function(name: str, kind: str, beams: int) -> None:
    rng = np.random.default_rng(beams)
    compare_with_generate(family(name), catalogue(rng, kind), 5, beams, rng)


@pytest.mark.soak
@pytest.mark.parametrize("is_trained", [False, True], ids=["random", "trained"])
@pytest.mark.parametrize("name", ["Llama", "Qwen2", "Qwen3", "Mistral", "Gemma2", "Gemma3"])
@pytest.mark.parametrize("kind", ["codes", "titles"])
@pytest.mark.parametrize("beams", [1, 5, 20, 50])
def test_equals_generate_on_64_prompts(name: str, is_trained: bool, kind: str, beams: int) -> None:
    rng = np.random.default_rng(beams)
    model, trie = family(name), catalogue(rng, kind)
    compare_with_generate(trained(model, rng, trie) if is_trained else model, trie, 64, beams, rng)


def test_equals_generate_after_training() -> None:
    rng = np.random.default_rng(0)
    trie = catalogue(rng, "titles")
    compare_with_generate(trained(llama(), rng, trie), trie, 5, 10, rng)


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


@pytest.mark.parametrize("name", ["Llama", "Gemma2"])
def test_half_precision(name: str) -> None:
    """In bf16 the scores are those of single precision, as far as three digits go."""
    rng = np.random.default_rng(0)
    trie = catalogue(rng, "codes", 40)
    ids, mask = prompts(rng, 4)
    model = family(name, initializer_range=0.1)
    exact = dict(enumerate(beam_search(model, ids, mask, trie, beams=40)[1]))
    leaf_BK, score_BK = beam_search(model.bfloat16(), ids, mask, trie, beams=40)
    assert score_BK.dtype == torch.float32
    assert (leaf_BK[:, :20] >= 0).all()
    for row, scores in exact.items():
        real = scores > -torch.inf
        torch.testing.assert_close(score_BK[row][real], scores[real], rtol=0, atol=0.15)


def test_prepared_by_accelerate_and_wrapped() -> None:
    from accelerate import Accelerator

    rng = np.random.default_rng(0)
    model, trie = llama(), catalogue(rng, "titles")
    ids, mask = prompts(rng, 4)
    expected = beam_search(model, ids, mask, trie, beams=5)
    accelerator = Accelerator(cpu=True)
    for wrapped in (accelerator.prepare(model), torch.nn.DataParallel(model)):
        found = beam_search(wrapped, ids, mask, trie, beams=5)
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])


def test_an_adapter_on_the_head_is_heard() -> None:
    from peft import LoraConfig, get_peft_model

    rng = np.random.default_rng(0)
    trie = catalogue(rng, "titles", 40)
    ids, mask = prompts(rng, 3)
    model = get_peft_model(
        llama(), LoraConfig(r=4, target_modules=["q_proj", "lm_head"], init_lora_weights=False)
    ).eval()
    found = [beam_search(model, ids, mask, trie, beams=40, normalize=kind) for kind in ("vocab", "ids", "trie")]
    merged = model.merge_and_unload()
    for kind, (leaf_BK, score_BK) in zip(("vocab", "ids", "trie"), found, strict=True):
        expected = beam_search(merged, ids, mask, trie, beams=40, normalize=kind)
        assert torch.equal(leaf_BK, expected[0])
        torch.testing.assert_close(score_BK, expected[1], rtol=0, atol=1e-4)


def test_checkpoint_settings_play_no_part() -> None:
    rng = np.random.default_rng(0)
    model, trie = llama(), catalogue(rng, "codes")
    ids, mask = prompts(rng, 3)
    expected = beam_search(model, ids, mask, trie, beams=6)
    model.generation_config.update(top_k=2, temperature=0.1, do_sample=True, num_beams=3, length_penalty=3.0)
    found = beam_search(model, ids, mask, trie, beams=6)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


def test_collaborative_evidence_is_mixed_into_every_step() -> None:
    """D3: a log p_LM + (1 - a) log p_CF, where p_CF is a child's share of its node's mass, floored."""
    rng = np.random.default_rng(7)
    model, share, floor = llama(), 0.3, 1e-20
    paths = brute_force_paths(rng, 25, range(3, 9), 3, END)
    trie = ItemTrie.build(paths)
    ids, mask = prompts(rng, 2)
    prob_BI = torch.from_numpy(rng.random((2, 25)) ** 4)
    prob_BI[0, :5] = 0.0

    def mixed(node_BK: Tensor, token_BKC: Tensor, log_prob_BKC: Tensor) -> Tensor:
        row_N = torch.arange(2).repeat_interleave(node_BK.shape[1])
        mass_NC = trie.child_mass(node_BK.flatten().clamp(min=0), row_N, prob_BI)[1]
        mass_BKC = mass_NC[:, : token_BKC.shape[2]].reshape(token_BKC.shape)
        return share * log_prob_BKC + (1 - share) * mass_BKC.clamp(min=floor).log().float()

    leaf_BK, score_BK = beam_search(model, ids, mask, trie, beams=40, step_scores=mixed)
    for row in range(2):
        plain = exhaustive(model, ids[row : row + 1], mask[row : row + 1], trie, paths, "vocab")
        for leaf, score in zip(leaf_BK[row].tolist(), score_BK[row].tolist(), strict=True):
            if leaf < 0:
                continue
            path = next(path for item, path in enumerate(paths) if trie.leaf_of(torch.tensor([item])).item() == leaf)
            total = share * plain[leaf]
            for depth in range(len(path)):
                below = [sum(prob_BI[row, item].item() for item, other in enumerate(paths)
                             if other[:length] == path[:length]) for length in (depth, depth + 1)]  # fmt: skip
                if below[0] > 0:  # else shared by the number of items, which child_mass is tested for
                    total += (1 - share) * np.log(max(below[1] / below[0], floor))
            if all(prob_BI[row, item] > 0 for item, other in enumerate(paths) if other[0] == path[0]):
                assert score == pytest.approx(total, abs=1e-3)
