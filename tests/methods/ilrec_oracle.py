"""ILRec's equations as loops over positions and tokens in float64, on worlds of random logits, targets and rewards."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ilrec_cli.methods.ilrec import Config
from ilrec_cli.methods.ilrec.loss import ilrec_terms

POSITIONS, VOCABULARY, LAYERS, CHILDREN = 7, 11, 3, 5


TERMS = ("cpo", "cpd", "crr", "ce")
# Statistic -> what its count is.
STATISTICS = {
    "negatives": "tokens", "no_negatives": "tokens", "negative_logits": "negatives",
    "sibling_penalty": "positions_with_penalty", "target_label": "crr_tokens", "target_alone": "crr_tokens",
    "liked_negatives": "legal_negatives",
}  # fmt: skip
COUNTS = ("tokens", "positions_with_penalty", "legal_negatives")


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
    sums = dict.fromkeys((*TERMS, "crr_tokens", *STATISTICS, *COUNTS), 0.0)
    for n, y in enumerate(world.target.tolist()):
        sums["tokens"] += 1
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
        legal = [v for v in negatives if v in children]
        sums["negatives"] += len(negatives)
        sums["no_negatives"] += not negatives
        sums["negative_logits"] += sum(final[n][v] < 0 for v in negatives)
        if children:
            sums["sibling_penalty"] += sum(weight[v] for v in legal)
            sums["positions_with_penalty"] += bool(negatives)
            members = (negatives if config.crr_scope == "all" else legal) + [y]
            sums["legal_negatives"] += len(legal)
            sums["target_alone"] += members == [y]
            sums["liked_negatives"] += sum(children[v] > children.get(y, 0.0) for v in legal)
            labels = softmax([children.get(v, 0.0) for v in members])
            sums["crr"] -= sum(label * math.log(q[v]) for label, v in zip(labels, members, strict=True))
            sums["target_label"] += labels[-1]
            sums["crr_tokens"] += 1
    return sums
