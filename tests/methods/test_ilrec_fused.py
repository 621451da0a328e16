"""The losses with closed-form gradients against plain operations that autograd differentiates, loss and gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ilrec_oracle import VOCABULARY, World
from torch import Tensor

from ilrec_cli.methods.ilrec import Config
from ilrec_cli.methods.ilrec.fused import divergence, soft_cross_entropy
from ilrec_cli.methods.ilrec.loss import ensemble, ilrec_terms, negatives, penalised, penalty_weights

CONFIGS = st.builds(
    Config,
    alpha=st.sampled_from([0.0, 0.05, 0.8, 50.0]),
    beta=st.sampled_from([0.0, 0.3]),
    lambda_cpd=st.sampled_from([0.0, 0.5]),
    ensemble=st.sampled_from(["mean", "max_prob", "entropy", "variance"]),
    negatives_from=st.sampled_from(["ensemble", "final"]),
    negatives_scope=st.sampled_from(["vocab", "trie"]),
    weight_by=st.sampled_from(["logits", "probs"]),
    penalty=st.sampled_from(["scale", "shift"]),
    kl=st.sampled_from(["student_teacher", "teacher_student"]),
    crr_scope=st.sampled_from(["trie", "all"]),
)


def plain_total(world: World, config: Config) -> Tensor:
    """L_CPO + lambda L_CPD + mu L_CRR, with log_softmax and products over the whole vocabulary."""
    log_q = world.final.log_softmax(-1)
    with torch.no_grad():
        p_hat = world.final if config.negatives_from == "final" else ensemble(world.inner, config)
        negative = negatives(p_hat, world.target, config, world.tokens)
        weight = penalty_weights(p_hat, negative, config)
    rows = torch.arange(len(world.target))
    total = -penalised(world.final, weight, config).log_softmax(-1)[rows, world.target].sum()
    p, q = world.inner.log_softmax(-1), log_q.detach()
    kl = p.exp() * (p - q) if config.kl == "student_teacher" else q.exp() * (q - p)
    total = total + config.lambda_cpd * kl.sum()
    for n in rows[:-1]:  # the last position has no rewards
        reward = dict(zip(world.tokens[n].tolist(), world.rewards[n].tolist(), strict=True))
        members = [v for v in range(VOCABULARY) if v == world.target[n] or negative[n, v]]
        members = [v for v in members if v == world.target[n] or v in reward or config.crr_scope == "all"]
        label = torch.tensor([reward.get(v, 0.0) for v in members], dtype=torch.float64).softmax(0)
        total = total - config.mu_crr * (label * log_q[n, members]).sum()
    return total


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10_000), CONFIGS)
def test_the_loss_and_its_gradient_are_those_of_plain_operations(seed: int, config: Config) -> None:
    world = World(seed)
    terms = ilrec_terms(world.final, world.inner, world.target, config=config,
                        reward_tokens_NC=world.tokens, reward_values_NC=world.rewards)  # fmt: skip
    found = terms.cpo + config.lambda_cpd * terms.cpd + config.mu_crr * terms.crr
    expected = plain_total(world, config)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    inputs = (world.final, world.inner) if config.lambda_cpd else (world.final,)
    for one, two in zip(torch.autograd.grad(3 * found, inputs), torch.autograd.grad(3 * expected, inputs), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-11)
        assert two.abs().max() > 1e-6


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.booleans(), st.sampled_from([0.01, 2.0, 300.0]))
def test_divergence_at_small_and_large_logits(seed: int, student_first: bool, scale: float) -> None:
    world = World(seed)
    student, teacher = (world.inner.detach() * scale).requires_grad_(), world.final.detach() * scale
    found = divergence(student, teacher, teacher.logsumexp(-1, keepdim=True), student_first=student_first)
    p, q = student.log_softmax(-1), teacher.log_softmax(-1)
    expected = (p.exp() * (p - q) if student_first else q.exp() * (q - p)).sum()
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    one, two = (torch.autograd.grad(each, student)[0] for each in (found, expected))
    torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("student_first", [True, False])
def test_gradcheck_of_the_divergence(student_first: bool) -> None:
    world = World(1)
    teacher = world.final.detach()
    total = teacher.logsumexp(-1, keepdim=True)
    assert torch.autograd.gradcheck(lambda x: divergence(x, teacher, total, student_first=student_first), world.inner)


def test_gradcheck_of_the_cross_entropy_with_repeated_tokens_and_labels_of_any_sum() -> None:
    world = World(2)
    tokens = torch.randint(VOCABULARY, (len(world.target), 4))
    tokens[0] = 3
    labels: Any = torch.rand(tokens.shape, dtype=torch.float64) * torch.tensor([1.0, 1.0, 0.0, 2.0])
    assert torch.autograd.gradcheck(lambda x: soft_cross_entropy(x, tokens, labels)[0], world.final)
    found, total = soft_cross_entropy(world.final, tokens, labels)
    torch.testing.assert_close(found, -(labels * world.final.log_softmax(-1).gather(1, tokens)).sum(1))
    torch.testing.assert_close(total.squeeze(1), world.final.logsumexp(-1))


def test_a_token_that_cannot_be_and_has_no_label_counts_as_nothing() -> None:
    logits = torch.tensor([[0.0, 1.0, -torch.inf]], requires_grad=True)
    loss, _ = soft_cross_entropy(logits, torch.tensor([[0, 2]]), torch.tensor([[1.0, 0.0]]))
    assert loss.isfinite().all()
    loss.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
