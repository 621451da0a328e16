"""Free generation against transformers' own; samples against exact probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import brute_force_paths, llama, qwen2
from searching import END, PAD, prompts

from ilrec_cli.lm.exact import exact_scores
from ilrec_cli.lm.generate import generate, sample, sample_text
from ilrec_cli.lm.tree import Copies, Tree
from ilrec_cli.trie import ItemTrie


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def eager_to_end(family: Any) -> Any:
    """A model that ends often, so that responses have many lengths."""
    model = family()
    with torch.no_grad():
        model.lm_head.weight[END] *= 2.5
    return model


@pytest.mark.parametrize("family", [llama, qwen2])
@pytest.mark.parametrize(("beams", "penalty", "least"), [(1, 1.0, 0), (4, 1.0, 0), (4, 0.0, 2), (5, 2.0, 3)])
def test_free_generation_equals_transformers(family: Any, beams: int, penalty: float, least: int) -> None:
    from transformers import GenerationConfig

    model = eager_to_end(family)
    ids, mask = prompts(np.random.default_rng(0), 8)
    settings = GenerationConfig(
        num_beams=beams, num_return_sequences=beams, max_new_tokens=7, min_new_tokens=least, length_penalty=penalty,
        early_stopping=False, do_sample=False, eos_token_id=END, pad_token_id=PAD, output_scores=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    expected = model.generate(ids, attention_mask=mask, generation_config=settings)
    token_BKT, score_BK = generate(
        model, ids, mask, beams=beams, max_new_tokens=7, end_token=END, min_new_tokens=least, length_penalty=penalty
    )
    found = [[token for token in row if token >= 0] for row in token_BKT.flatten(0, 1).tolist()]
    lists = [row[: row.index(END) + 1] if END in row else row for row in expected.sequences[:, ids.shape[1] :].tolist()]
    assert found == lists
    assert len({len(row) for row in found}) > 1
    if beams > 1:
        torch.testing.assert_close(score_BK.flatten(), expected.sequences_scores, rtol=0, atol=1e-4)


@pytest.mark.parametrize("copies", [False, True], ids=["tree", "copies"])
@pytest.mark.parametrize("beams", [1, 4])
def test_prompts_that_are_done_are_not_run_and_change_nobody(
    beams: int, copies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if copies:
        monkeypatch.setattr(
            "ilrec_cli.lm.generate.open_prompts", lambda model, ids, mask, room: Copies(model, ids, mask)
        )
    chosen = Copies if copies else Tree
    left: list[int] = []
    select = chosen.select
    monkeypatch.setattr(chosen, "select", lambda self, row_B: (left.append(len(row_B)), select(self, row_B))[1])
    model = eager_to_end(llama)
    with torch.no_grad():
        model.lm_head.weight[END] *= 2
    ids, mask = prompts(np.random.default_rng(0), 8)
    settings: dict[str, Any] = {"beams": beams, "max_new_tokens": 14, "end_token": END, "length_penalty": 0.0}
    together = generate(model, ids, mask, **settings)
    assert left
    assert max(left) <= 4
    for row in range(8):
        alone = generate(model, ids[row : row + 1], mask[row : row + 1], **settings)
        assert torch.equal(together[0][row], alone[0][0])
        torch.testing.assert_close(together[1][row], alone[1][0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_samples_follow_the_probabilities_of_the_trie(temperature: float) -> None:
    from scipy.stats import chisquare

    rng = np.random.default_rng(0)
    model, trie = llama(), ItemTrie.build(brute_force_paths(rng, 9, range(3, 6), 3, END))
    with torch.no_grad():
        model.lm_head.weight *= 0.3  # no leaf is negligible
    ids, mask = prompts(rng, 2)
    drawn = sample(model, ids, mask, trie, samples=4000, generator=generator(), temperature=temperature)
    with torch.no_grad():
        model.lm_head.weight /= temperature
    leaf_L, score_BL = exact_scores(model, ids, mask, trie, normalize="trie")
    for row in range(2):
        count_L = (drawn.leaf_BK[row][:, None] == leaf_L).sum(0)
        assert count_L.sum() == 4000, "every sample is an item"
        expected = score_BL[row].double().exp()
        assert chisquare(count_L.numpy(), (expected / expected.sum() * 4000).numpy()).pvalue > 1e-3


@pytest.mark.parametrize("normalize", ["vocab", "ids", "trie"])
def test_log_probabilities_of_samples_are_those_of_their_leaves(normalize: Any) -> None:
    rng = np.random.default_rng(1)
    model, trie = llama(), ItemTrie.build(brute_force_paths(rng, 40, range(3, 9), 4, END))
    ids, mask = prompts(rng, 3)
    drawn = sample(model, ids, mask, trie, samples=6, generator=generator(), normalize=normalize)
    leaf_L, score_BL = exact_scores(model, ids, mask, trie, normalize=normalize)
    expected = score_BL.gather(1, torch.searchsorted(leaf_L, drawn.leaf_BK))
    torch.testing.assert_close(drawn.log_prob_BKT.sum(2), expected, rtol=0, atol=1e-4)
    node = torch.zeros(3, 6, dtype=torch.long)
    for token in drawn.token_BKT.unbind(2):
        node = torch.where(token >= 0, trie.step(node, token), node)
    assert torch.equal(node, drawn.leaf_BK)
    again = sample(model, ids, mask, trie, samples=6, generator=generator(), normalize=normalize)
    assert torch.equal(again.token_BKT, drawn.token_BKT)
    other = sample(model, ids, mask, trie, samples=6, generator=generator(1), normalize=normalize)
    assert not torch.equal(other.token_BKT, drawn.token_BKT)


def test_samples_of_text_have_the_log_probabilities_of_the_model() -> None:
    model = eager_to_end(llama)
    ids, mask = prompts(np.random.default_rng(0), 3)
    token_BKT, log_prob_BKT = sample_text(
        model, ids, mask, samples=4, max_new_tokens=6, end_token=END, generator=generator()
    )
    assert len({tuple(row) for row in token_BKT.flatten(0, 1).tolist()}) > 6
    for row, place in np.ndindex(3, 4):
        prompt, response = ids[row][mask[row].bool()], token_BKT[row, place]
        response = response[response >= 0]
        with torch.no_grad():
            logits = model(input_ids=torch.cat([prompt, response])[None]).logits[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(1).gather(1, response[:, None])[:, 0]
        torch.testing.assert_close(log_prob_BKT[row, place][: len(response)], expected, rtol=0, atol=1e-4)
        assert (log_prob_BKT[row, place][len(response) :] == 0).all()
        assert END not in response[:-1]


def test_first_tokens_of_text_follow_the_model() -> None:
    from scipy.stats import chisquare

    model = llama()
    with torch.no_grad():
        model.lm_head.weight *= 0.2
    ids, mask = prompts(np.random.default_rng(0), 1)
    token_BKT, _ = sample_text(
        model, ids, mask, samples=6000, max_new_tokens=1, end_token=END, generator=generator(), temperature=2.0
    )
    with torch.no_grad():
        expected = (model(input_ids=ids, attention_mask=mask).logits[0, -1] / 2.0).double().softmax(0)
    assert chisquare(token_BKT.flatten().bincount(minlength=60).numpy(), (expected * 6000).numpy()).pvalue > 1e-3


def test_no_samples_and_no_temperature_are_refused() -> None:
    trie, ids = ItemTrie.build([[5, END], [6, END]]), torch.tensor([[3, 4]])
    for wrong in ({"samples": 0}, {"samples": 1, "temperature": 0.0}, {"samples": 1, "temperature": float("nan")}):
        with pytest.raises(ValueError, match="expected at least 1"):
            sample(llama(), ids, torch.ones_like(ids), trie, generator=generator(), **wrong)
