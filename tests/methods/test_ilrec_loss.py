"""ILRec's terms against loops over positions and tokens in float64, written from the equations."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from ilrec_oracle import CHILDREN, POSITIONS, STATISTICS, TERMS, VOCABULARY, World, oracle
from torch import Tensor

from ilrec_cli.methods.ilrec import Config
from ilrec_cli.methods.ilrec.loss import ilrec_terms
from ilrec_cli.methods.sft.loss import sft_terms

DEFAULT = Config(alpha=0.8, beta=0.3)
VARIANTS = {
    "default": DEFAULT,
    "alpha small": replace(DEFAULT, alpha=0.05),
    "alpha zero": replace(DEFAULT, alpha=0.0),
    "alpha large": replace(DEFAULT, alpha=50.0),
    "max_prob": replace(DEFAULT, ensemble="max_prob"),
    "entropy": replace(DEFAULT, ensemble="entropy"),
    "variance": replace(DEFAULT, ensemble="variance"),
    "final": replace(DEFAULT, negatives_from="final"),
    "trie": replace(DEFAULT, alpha=0.05, negatives_scope="trie"),
    "probs": replace(DEFAULT, alpha=0.05, weight_by="probs"),
    "shift": replace(DEFAULT, alpha=0.05, penalty="shift"),
    "teacher first": replace(DEFAULT, kl="teacher_student"),
    "crr all": replace(DEFAULT, alpha=0.05, crr_scope="all"),
}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("seed", [0, 1])
def test_terms_equal_the_equations(name: str, seed: int) -> None:
    world, config = World(seed), VARIANTS[name]
    terms, expected = world.terms(config), oracle(world, config)
    for term in ("cpo", "cpd", "crr", "ce"):
        assert getattr(terms, term).item() == pytest.approx(expected[term], rel=1e-10), term
    assert terms.tokens == POSITIONS
    assert terms.crr_tokens == expected["crr_tokens"] == POSITIONS - 1
    assert terms.stats["negatives"][0].item() == expected["negatives"]


CHOICES = {
    "ensemble": ("mean", "max_prob", "entropy", "variance"),
    "negatives_from": ("ensemble", "final"),
    "negatives_scope": ("vocab", "trie"),
    "weight_by": ("logits", "probs"),
    "penalty": ("scale", "shift"),
    "kl": ("student_teacher", "teacher_student"),
    "crr_scope": ("trie", "all"),
}


def test_every_combination_of_options_equals_the_equations() -> None:
    """256 settings, with thresholds from "every token" to "almost none" and one to three layers in turn."""
    for place, values in enumerate(product(*CHOICES.values())):
        options: dict[str, Any] = dict(zip(CHOICES, values, strict=True))
        config = Config(alpha=(0.0, 0.05, 0.8, 3.0)[place % 4], beta=0.3, **options)
        world = World(place, layers=1 + place % 3)
        terms, expected = world.terms(config), oracle(world, config)
        for term in TERMS:
            assert getattr(terms, term).item() == pytest.approx(expected[term], rel=1e-10), (term, config)
        for name, count in STATISTICS.items():
            found = [part.item() for part in terms.stats[name]]
            assert found == pytest.approx([expected[name], expected[count]], rel=1e-10, abs=1e-12), (name, config)


def test_the_oracle_tells_settings_apart() -> None:
    """The deliberate fault: a wrong beta, alpha or direction is far outside the tolerance."""
    world = World()
    right = oracle(world, DEFAULT)
    for term, wrong in (("cpo", replace(DEFAULT, beta=0.2)), ("cpo", replace(DEFAULT, alpha=0.05)),
                        ("cpd", replace(DEFAULT, kl="teacher_student")), ("crr", replace(DEFAULT, alpha=0.05))):  # fmt: skip
        assert abs(getattr(world.terms(wrong), term).item() - right[term]) > 1e-3 * right[term]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_beta_lambda_mu_the_loss_is_cross_entropy_exactly(dtype: torch.dtype) -> None:
    world = World(dtype=dtype)
    config = Config(beta=0.0, lambda_cpd=0.0, mu_crr=0.0)
    terms = world.terms(config)
    expected = F.cross_entropy(world.final, world.target, reduction="sum")
    assert torch.equal(terms.cpo, expected)
    assert torch.equal(terms.ce, expected)
    assert torch.equal(sft_terms(world.final, world.target).ce, expected)
    (found,) = torch.autograd.grad(terms.cpo, world.final)
    (wanted,) = torch.autograd.grad(expected, world.final)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("penalty", ["scale", "shift"])
def test_gradient_of_cpo_is_the_papers(penalty: str) -> None:
    """A.3: dL/dP(v) = (1 + beta w_v) q_v - [v = y]; without the factor for the shifted penalty."""
    world = World(3)
    config = replace(DEFAULT, alpha=0.05, penalty=penalty)
    (found,) = torch.autograd.grad(world.terms(config).cpo, world.final)
    p_hat = world.inner.detach().mean(0)
    prob = p_hat.softmax(1)
    for n, y in enumerate(world.target.tolist()):
        negatives = [v for v in range(VOCABULARY) if v != y and prob[n, v] >= config.alpha * prob[n, y]]
        weight = torch.zeros(VOCABULARY, dtype=torch.float64)
        weight[negatives] = p_hat[n, negatives].softmax(0)
        p = world.final.detach()[n]
        z = p * (1 + config.beta * weight) if penalty == "scale" else p + config.beta * weight * p.abs()
        expected = z.softmax(0) * (1 + config.beta * weight if penalty == "scale" else 1.0)
        expected[y] -= 1
        torch.testing.assert_close(found[n], expected, rtol=1e-12, atol=1e-12)


def test_intermediate_layers_learn_through_cpd_alone_and_the_teacher_does_not() -> None:
    world = World()
    terms = world.terms(DEFAULT)
    cpo, crr = (
        torch.autograd.grad(each, world.inner, allow_unused=True, retain_graph=True)[0]
        for each in (terms.cpo, terms.crr)
    )
    assert cpo is None
    assert crr is None
    assert torch.autograd.grad(terms.cpd, world.inner, retain_graph=True)[0].abs().sum() > 0
    assert torch.autograd.grad(terms.cpd, world.final, allow_unused=True)[0] is None


@pytest.mark.parametrize("kl", ["student_teacher", "teacher_student"])
def test_gradient_of_cpd_is_the_derived_one(kl: Any) -> None:
    """p (log p/q - KL(p || q)) for student first, p - q for teacher first; q is constant."""
    world = World(8)
    (found,) = torch.autograd.grad(world.terms(replace(DEFAULT, kl=kl)).cpd, world.inner)
    p, q = world.inner.detach().softmax(-1), world.final.detach().softmax(-1)
    ratio = (p / q).log()
    expected = p * (ratio - (p * ratio).sum(-1, keepdim=True)) if kl == "student_teacher" else p - q
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_gradient_of_crr_is_the_distribution_minus_the_soft_labels() -> None:
    world, config = World(9), replace(DEFAULT, alpha=0.05)
    (found,) = torch.autograd.grad(world.terms(config).crr, world.final)
    p_hat = world.inner.detach().mean(0).softmax(-1)
    expected = torch.zeros_like(found)
    for n, y in enumerate(world.target.tolist()):
        children = {t: r for t, r in zip(world.tokens[n].tolist(), world.rewards[n].tolist(), strict=True) if t >= 0}
        members = [v for v in children if v == y or p_hat[n, v] >= config.alpha * p_hat[n, y]]
        if children:
            expected[n] = world.final.detach()[n].softmax(-1)
            expected[n, members] -= torch.tensor([children[v] for v in members], dtype=torch.float64).softmax(-1)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kl", ["student_teacher", "teacher_student"])
@pytest.mark.parametrize("term", ["cpo", "cpd", "crr"])
def test_gradcheck(term: str, kl: Any) -> None:
    world = World(5)

    def value(final: Tensor, inner: Tensor) -> Tensor:
        terms = ilrec_terms(
            final, inner, world.target, config=config, reward_tokens_NC=world.tokens, reward_values_NC=world.rewards
        )
        return getattr(terms, term)

    # Negatives from fixed logits: finite differences must not move a token across the threshold.
    config = replace(DEFAULT, alpha=1e-9, kl=kl)
    fixed = world.inner.detach()
    if term == "cpd":
        assert torch.autograd.gradcheck(lambda inner: value(world.final.detach(), inner), (world.inner,))
    else:
        assert torch.autograd.gradcheck(lambda final: value(final, fixed), (world.final,))


def test_a_distillation_of_weight_zero_is_measured_without_a_gradient() -> None:
    world = World(8)
    assert world.terms(DEFAULT).cpd.item() == world.terms(replace(DEFAULT, lambda_cpd=0.0)).cpd.item()
    assert not world.terms(replace(DEFAULT, lambda_cpd=0.0)).cpd.requires_grad


def test_chunks_add_up() -> None:
    world = World(2)
    whole = world.terms(DEFAULT)
    parts = [
        ilrec_terms(world.final[part], world.inner[:, part], world.target[part], config=DEFAULT,
                    reward_tokens_NC=world.tokens[part], reward_values_NC=world.rewards[part])
        for part in (slice(0, 3), slice(3, 4), slice(4, None))
    ]  # fmt: skip
    total = parts[0] + parts[1] + parts[2]
    for name, (value, count) in {**whole.losses, **whole.stats}.items():
        found = {**total.losses, **total.stats}[name]
        torch.testing.assert_close(found[0], value, rtol=1e-12, atol=0)
        assert found[1] == count


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from(sorted(VARIANTS)))
def test_permuting_the_vocabulary_changes_nothing(seed: int, name: str) -> None:
    world, config = World(seed), VARIANTS[name]
    permutation = torch.randperm(VOCABULARY, generator=torch.Generator().manual_seed(seed))
    place = permutation.argsort()
    tokens = torch.where(world.tokens >= 0, place[world.tokens.clamp(min=0)], -1)
    found = ilrec_terms(world.final[:, permutation], world.inner[:, :, permutation], place[world.target],
                        config=config, reward_tokens_NC=tokens, reward_values_NC=world.rewards)  # fmt: skip
    expected = world.terms(config)
    for term in ("cpo", "cpd", "crr", "ce"):
        torch.testing.assert_close(getattr(found, term), getattr(expected, term), rtol=1e-9, atol=1e-12)


def test_shifting_logits() -> None:
    """CPD, CRR and the shifted threshold are shift-invariant; CPO as printed is not."""
    world = World(4)
    moved = World(4)
    moved.final = (world.final + 5).detach().requires_grad_()
    moved.inner = (world.inner - 3).detach().requires_grad_()
    one, two = world.terms(replace(DEFAULT, alpha=0.05)), moved.terms(replace(DEFAULT, alpha=0.05))
    torch.testing.assert_close(one.cpd, two.cpd, rtol=1e-9, atol=0)
    torch.testing.assert_close(one.crr, two.crr, rtol=1e-9, atol=0)
    assert torch.equal(one.stats["negatives"][0], two.stats["negatives"][0])
    assert abs(one.cpo.item() - two.cpo.item()) > 1e-3
    plain = replace(DEFAULT, beta=0.0)
    torch.testing.assert_close(world.terms(plain).cpo, moved.terms(plain).cpo, rtol=1e-9, atol=0)


def test_empty_negatives_leave_cross_entropy_and_a_label_of_one() -> None:
    world = World(6)
    terms = world.terms(replace(DEFAULT, alpha=1e9))
    torch.testing.assert_close(terms.cpo, terms.ce, rtol=1e-12, atol=0)
    with_rewards = F.cross_entropy(world.final[:-1], world.target[:-1], reduction="sum")
    torch.testing.assert_close(terms.crr, with_rewards, rtol=1e-12, atol=0)
    assert terms.stats["no_negatives"][0] == POSITIONS


def test_a_target_that_is_not_among_the_tokens_is_in_h_with_reward_zero() -> None:
    world = World(7)
    for n in range(POSITIONS - 1):
        others = [v for v in range(VOCABULARY) if v != world.target[n]][: 1 + n % CHILDREN]
        world.tokens[n] = torch.tensor(others + [-1] * (CHILDREN - len(others)))
        world.rewards[n] = torch.where(world.tokens[n] >= 0, 0.3, 0.0)
    for config in (replace(DEFAULT, alpha=0.05), DEFAULT):
        terms, expected = world.terms(config), oracle(world, config)
        assert terms.crr.item() == pytest.approx(expected["crr"], rel=1e-10)


def test_without_rewards_there_is_no_crr() -> None:
    world = World()
    terms = ilrec_terms(world.final, world.inner, world.target, config=DEFAULT)
    assert terms.crr.item() == 0
    assert terms.crr_tokens == 0


def test_large_logits_stay_finite() -> None:
    world = World(dtype=torch.float32)
    final = (world.final * 1e4).detach().requires_grad_()
    terms = ilrec_terms(final, (world.inner * 1e4).detach(), world.target, config=replace(DEFAULT, alpha=0.0),
                        reward_tokens_NC=world.tokens, reward_values_NC=world.rewards)  # fmt: skip
    total = terms.cpo + terms.cpd + terms.crr
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(final.grad).all()


def test_half_precision_logits_are_lifted_first() -> None:
    world = World(dtype=torch.float32)
    low = ilrec_terms(world.final.bfloat16(), world.inner.bfloat16(), world.target, config=DEFAULT)
    high = ilrec_terms(world.final.bfloat16().float(), world.inner.bfloat16().float(), world.target, config=DEFAULT)
    assert low.cpo.dtype == torch.float32
    assert torch.equal(low.cpo, high.cpo)


def test_an_ensemble_of_no_layers_is_refused_and_constant_layers_share_alike() -> None:
    final, target = torch.randn(3, 6), torch.tensor([0, 1, 2])
    with pytest.raises(ValueError, match="at least one layer"):
        ilrec_terms(final, torch.zeros(0, 3, 6), target, config=Config())
    ilrec_terms(final, torch.zeros(0, 3, 6), target, config=Config(beta=0, mu_crr=0))
    flat = torch.ones(2, 3, 6)
    terms = ilrec_terms(final, flat, target, config=Config(ensemble="variance"))
    assert terms.stats["negatives"][0] == 3 * 5, "every other token is as likely as the target"
