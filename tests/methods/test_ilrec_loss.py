"""ILRec's terms against loops over positions and tokens in float64, written from the equations."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ilrec_cli.methods.ilrec import Config
from ilrec_cli.methods.ilrec.loss import distillation, ilrec_terms
from ilrec_cli.methods.sft.loss import sft_terms

POSITIONS, VOCABULARY, LAYERS, CHILDREN = 7, 11, 3, 5


class World:
    """Random logits, targets and rewards; `y` is always among the reward tokens of its position."""

    def __init__(self, seed: int = 0, layers: int = LAYERS, dtype: torch.dtype = torch.float64):
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64).mul(2).to(dtype)

        self.final = draw(POSITIONS, VOCABULARY).requires_grad_()
        self.inner = draw(layers, POSITIONS, VOCABULARY).requires_grad_()
        self.target = torch.randint(VOCABULARY, (POSITIONS,), generator=generator)
        self.tokens = torch.full((POSITIONS, CHILDREN), -1)
        self.rewards = torch.zeros(POSITIONS, CHILDREN, dtype=torch.float64)
        for n in range(POSITIONS - 1):  # the last position has no rewards
            size = 1 + n % CHILDREN
            others = [v for v in torch.randperm(VOCABULARY, generator=generator).tolist() if v != self.target[n]]
            chosen = sorted([self.target[n].item(), *others[: size - 1]])
            self.tokens[n, :size] = torch.tensor(chosen)
            self.rewards[n, :size] = torch.rand(size, generator=generator, dtype=torch.float64).softmax(0)

    def terms(self, config: Config) -> Any:
        return ilrec_terms(
            self.final, self.inner, self.target,
            config=config, reward_tokens_NC=self.tokens, reward_values_NC=self.rewards,
        )  # fmt: skip


def softmax(values: list[float]) -> list[float]:
    top = max(values)
    exps = [math.exp(value - top) for value in values]
    return [value / sum(exps) for value in exps]


def layer_weights(layers: list[list[float]], ensemble: str) -> list[float]:
    probs = [softmax(layer) for layer in layers]
    if ensemble == "mean":
        raw = [1.0] * len(layers)
    elif ensemble == "max_prob":
        raw = [max(prob) for prob in probs]
    elif ensemble == "variance":
        means = [sum(layer) / len(layer) for layer in layers]
        raw = [sum((x - mean) ** 2 for x in layer) / len(layer) for layer, mean in zip(layers, means, strict=True)]
    else:
        raw = softmax([sum(p * math.log(p) for p in prob) for prob in probs])
    return [value / sum(raw) for value in raw]


def oracle(world: World, config: Config) -> dict[str, float]:
    """Eqs. 2-8, 11 position by position, token by token."""
    final, inner = world.final.detach().double().tolist(), world.inner.detach().double().tolist()
    sums = dict.fromkeys(("cpo", "cpd", "crr", "ce", "crr_tokens", "negatives"), 0.0)
    for n, y in enumerate(world.target.tolist()):
        layers = [layer[n] for layer in inner]
        if config.negatives_from == "final":
            p_hat = final[n]
        else:
            shares = layer_weights(layers, config.ensemble)
            p_hat = [sum(a * layer[v] for a, layer in zip(shares, layers, strict=True)) for v in range(VOCABULARY)]
        prob = softmax(p_hat)
        children = {t: r for t, r in zip(world.tokens[n].tolist(), world.rewards[n].tolist(), strict=True) if t >= 0}
        tau = config.alpha * prob[y]
        negatives = [v for v in range(VOCABULARY) if v != y and prob[v] >= tau]
        if config.negatives_scope == "trie":
            negatives = [v for v in negatives if v in children]
        weight = dict.fromkeys(range(VOCABULARY), 0.0)
        if negatives:
            inside = [(p_hat if config.weight_by == "logits" else prob)[v] for v in negatives]
            weight |= dict(zip(negatives, softmax(inside), strict=True))
        if config.penalty == "scale":
            z = [final[n][v] * (1 + config.beta * weight[v]) for v in range(VOCABULARY)]
        else:
            z = [final[n][v] + config.beta * weight[v] * abs(final[n][v]) for v in range(VOCABULARY)]
        sums["cpo"] -= math.log(softmax(z)[y])
        q = softmax(final[n])
        sums["ce"] -= math.log(q[y])
        for layer in layers:
            p = softmax(layer)
            one, two = (p, q) if config.kl == "student_teacher" else (q, p)
            sums["cpd"] += sum(a * math.log(a / b) for a, b in zip(one, two, strict=True))
        sums["negatives"] += len(negatives)
        if children:
            members = [v for v in negatives if config.crr_scope == "all" or v in children] + [y]
            labels = softmax([children.get(v, 0.0) for v in members])
            sums["crr"] -= sum(label * math.log(q[v]) for label, v in zip(labels, members, strict=True))
            sums["crr_tokens"] += 1
    return sums


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


@pytest.mark.parametrize(("term", "kl"), [("cpo", "student_teacher"), ("cpd", "student_teacher"),
                                          ("cpd", "teacher_student"), ("crr", "student_teacher")])  # fmt: skip
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


def plain_divergence(student: Tensor, teacher: Tensor, direction: str) -> Tensor:
    """Eq. 8 by plain operations, which autograd differentiates."""
    log_p = student.log_softmax(-1)
    if direction == "student_teacher":
        return (log_p.exp() * (log_p - teacher)).sum()
    return (teacher.exp() * (teacher - log_p)).sum()


@settings(max_examples=30)
@given(
    st.integers(0, 10_000), st.sampled_from(["student_teacher", "teacher_student"]), st.sampled_from([0.1, 2.0, 30.0])
)
def test_divergence_and_its_gradient_are_those_of_plain_operations(seed: int, direction: Any, scale: float) -> None:
    world = World(seed)
    inner = (world.inner.detach() * scale).requires_grad_()
    teacher = (world.final.detach() * scale).log_softmax(-1)
    found = distillation(teacher, inner, replace(DEFAULT, kl=direction))
    expected = plain_divergence(inner, teacher, direction)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    wanted, other = (torch.autograd.grad(3 * each, inner)[0] for each in (expected, found))
    torch.testing.assert_close(other, wanted, rtol=1e-10, atol=1e-12)
    assert wanted.abs().max() > 1e-6 * scale


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
