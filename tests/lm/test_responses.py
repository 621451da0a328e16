"""Prompts with branches of responses: the log-probabilities and gradients of sequences that are run one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import family, llama, qwen2
from torch import Tensor

from ilrec_cli.lm import adapters
from ilrec_cli.lm.adapters import Lora
from ilrec_cli.lm.model import SupervisedLM
from ilrec_cli.lm.responses import Responses, pack, takes_branches
from ilrec_cli.lm.terms import Terms

LORA = Lora(r=4, alpha=8, dropout=0.0, targets=("q_proj", "v_proj"))
PROMPTS = [[7, 8, 9, 10], [11], [12, 13, 14, 15, 16, 17]]
# Of unlike lengths, with equal beginnings, a response of one token, and one that is not there.
ANSWERS: list[list[list[int]]] = [
    [[20, 21, 22, 1], [20, 23, 1], [1]],
    [[24, 25, 26, 27, 1], [28, 1], []],
    [[29, 1], [30, 31, 1], [32, 33, 34, 1]],
]
ARRAY = np.array([[answer + [-1] * (5 - len(answer)) for answer in row] for row in ANSWERS])


def batch(*, branched: bool = True, rows: slice = slice(None)) -> Responses:
    prompts = PROMPTS[rows]
    return pack(np.concatenate(prompts), np.array([len(row) for row in prompts]), ARRAY[rows], branched=branched, pad=2)


def one_by_one(model: Any) -> Tensor:
    """log_prob_BRT by a forward pass of the whole model for each response."""
    found = torch.zeros(ARRAY.shape, dtype=next(model.parameters()).dtype)
    for row, (prompt, answers) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        for place, answer in enumerate(answers):
            logits = model(input_ids=torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
            for depth, token in enumerate(answer):
                found[row, place, depth] = logits[len(prompt) + depth - 1, token]
    return found


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms and logits stay in the model's format, where the library and ours go through float32."""
    from transformers.models.llama.modeling_llama import LlamaRMSNorm
    from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

    def norm(self: Any, hidden: Tensor) -> Tensor:
        return self.weight * hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)

    for each in (LlamaRMSNorm, Qwen2RMSNorm):
        monkeypatch.setattr(each, "forward", norm)
    monkeypatch.setattr(SupervisedLM, "_after_head", lambda self, logits: logits)


def weighed(log_prob_BRT: Tensor) -> Tensor:
    weight = torch.linspace(-1, 2, log_prob_BRT.numel(), dtype=log_prob_BRT.dtype).view_as(log_prob_BRT)
    return (log_prob_BRT.sum(2).exp() * weight.sum(2) + (log_prob_BRT * weight).sum(2)).sum()


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: each.grad for name, each in model.named_parameters() if each.grad is not None}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize("backbone", [llama, qwen2])
@pytest.mark.parametrize("branched", [True, False])
def test_branches_are_sequences_one_by_one(branched: bool, backbone: Any, tuning: str) -> None:
    def build() -> Any:
        model = backbone().double()
        return adapters.add(model, LORA, list(range(50, 58)), 0) if tuning == "lora" else model

    expected_model, lm = build(), SupervisedLM(build())
    expected = one_by_one(expected_model)
    weighed(expected).backward()
    found = batch(branched=branched).log_probs(lm, 0)
    weighed(found).backward()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    wanted = gradients(expected_model)
    for name, gradient in gradients(lm.backbone).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-9, atol=1e-9, msg=name)
    assert any(gradient.any() for gradient in wanted.values())


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_chunks_of_positions_change_nothing(chunk: int) -> None:
    whole, parts = SupervisedLM(llama().double()), SupervisedLM(llama().double())
    expected, found = batch().log_probs(whole, 0), batch().log_probs(parts, chunk)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    weighed(expected).backward()
    weighed(found).backward()
    for name, gradient in gradients(whole).items():
        torch.testing.assert_close(gradients(parts)[name], gradient, rtol=1e-9, atol=1e-12, msg=name)


def test_a_prompt_is_fed_once_and_last_tokens_never() -> None:
    lengths = [len(answer) for row in ANSWERS for answer in row if answer]
    assert batch().fed() == (sum(map(len, PROMPTS)), sum(lengths) - len(lengths))
    assert batch(branched=False).fed() == (3 * sum(map(len, PROMPTS)), sum(lengths) - len(lengths))
    assert len(batch().position_P) == 3 + sum(lengths) - len(lengths)
    one = batch(rows=slice(1))
    assert one.place_QS.tolist() == [[0, 1, 2, 3, 4, 5, 6, 4, 5]]
    assert one.segment_QS.tolist() == [[0, 0, 0, 0, 1, 1, 1, 2, 2]]


def test_rows_alone_and_together_are_the_same() -> None:
    lm = SupervisedLM(llama())
    together = batch().log_probs(lm)
    for row in range(3):
        torch.testing.assert_close(batch(rows=slice(row, row + 1)).log_probs(lm)[0], together[row], rtol=0, atol=1e-5)


def test_in_a_restricted_vocabulary_probabilities_sum_to_one_over_it() -> None:
    scope_V = torch.tensor([1, *range(20, 36)])
    logits = llama()(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1]
    expected = logits[20] - logits[scope_V].logsumexp(0)
    found = batch().log_probs(SupervisedLM(llama(), scope_V=scope_V))
    torch.testing.assert_close(found[0, 0, 0], expected, rtol=0, atol=1e-5)
    assert found[1, 2].abs().max() == 0


@pytest.mark.parametrize("branched", [True, False])
@torch.no_grad()
def test_entropy_is_that_of_each_tokens_prediction(branched: bool) -> None:
    model, expected = llama(), 0.0
    for prompt, answers in zip(PROMPTS, ANSWERS, strict=True):
        for answer in answers:
            prob = model(input_ids=torch.tensor([prompt + answer])).logits[0].double().softmax(-1)
            each = -(prob * prob.log()).sum(-1)
            expected += each[len(prompt) - 1 : len(prompt) + len(answer) - 1].sum().item()
    packed, lm = batch(branched=branched), SupervisedLM(model)
    for chunk in (None, 2):
        total, count = packed.entropy(lm, packed.hidden(lm), chunk)
        assert total.item() == pytest.approx(expected, rel=1e-5)
        assert count == (ARRAY >= 0).sum()


def test_a_process_without_rows_has_terms_and_gradients_of_zero() -> None:
    lm = SupervisedLM(llama())
    terms = lm(batch().without_responses(), lambda log_prob, _: Terms({"x": (log_prob.sum(), torch.zeros(()))}))
    terms.losses["x"][0].backward()
    assert terms.losses["x"][0] == 0
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in lm.parameters())


FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("Qwen3", {}), "gemma2": ("Gemma2", {}), "gemma3": ("Gemma3", {}), "phi3": ("Phi3", {}),
    "mistral-window": ("Mistral", {"sliding_window": 4}), "gemma3-window": ("Gemma3", {"sliding_window": 4}),
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_that_takes_branches_is_right(name: str) -> None:
    model = family(FAMILIES[name][0], **FAMILIES[name][1])
    lm = SupervisedLM(model)
    assert takes_branches(lm)
    with torch.no_grad():
        torch.testing.assert_close(batch().log_probs(lm), one_by_one(model), rtol=0, atol=2e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_in_half_precision_branches_are_sequences_too(attention: str) -> None:
    lm = SupervisedLM(llama(attn_implementation=attention))
    with torch.no_grad():
        exact = batch().log_probs(lm)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert takes_branches(lm)
            found, alone = batch().log_probs(lm), batch(branched=False).log_probs(lm)
        lower = SupervisedLM(llama(attn_implementation=attention).bfloat16())
        assert takes_branches(lower)
        stored = batch().log_probs(lower)
    spread = (alone - exact).abs().max()
    for each in (found, stored):
        assert each.isfinite().all()
        assert (each - exact).abs().max() < 3 * spread + 0.1


def test_recomputed_activations_give_the_same_gradients() -> None:
    found = []
    for recompute in (False, True):
        lm = SupervisedLM(llama().train())
        if recompute:
            lm.backbone.gradient_checkpointing_enable()
        weighed(batch().log_probs(lm)).backward()
        found.append(gradients(lm))
    for name, gradient in found[0].items():
        assert torch.equal(found[1][name], gradient), name


def test_an_architecture_without_such_masks_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not takes_branches(SupervisedLM(family("Bloom")))
    lm = SupervisedLM(llama())
    assert takes_branches(lm)
    monkeypatch.setattr(
        Responses, "_seen", lambda self: torch.ones(*self.segment_QS.shape, self.segment_QS.shape[1]) > 0
    )
    assert not takes_branches(lm), "a mask that is not heeded"
