"""Collaborative rewards from the models to the loss: eq. 10 and 11 for every model, sharp scores, odd catalogues."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from ilrec_oracle import softmax
from torch import Tensor

from ilrec_cli import plugins
from ilrec_cli.cf._common import Facts
from ilrec_cli.lm.examples import Batch
from ilrec_cli.methods.ilrec import Config
from ilrec_cli.methods.ilrec.loss import ilrec_terms
from ilrec_cli.stages import _models
from ilrec_cli.stages._job import reward_source
from ilrec_cli.trie import ItemTrie

END, VOCABULARY = 1, 20
FACTS = Facts(users=5, items=30, max_history=6, popularity_I=torch.arange(30))
HISTORIES = torch.tensor([[3, 4, 5, -1], [7, -1, -1, -1], [1, 2, 3, 4]])


def paths_of(items: int, seed: int = 0) -> list[list[int]]:
    """Two codes and the end; several items share a path."""
    rng = np.random.default_rng(seed)
    return [[2 + int(rng.integers(4)), 6 + int(rng.integers(3)), END] for _ in range(items)]


def batch_for(paths: list[list[int]], targets: list[int], history_MT: Tensor) -> tuple[Batch, ItemTrie]:
    """The supervised positions of some target items."""
    trie = ItemTrie.build(paths)
    token, node, event = [], [], []
    for index, item in enumerate(targets):
        at = torch.zeros(1, dtype=torch.long)
        for each in paths[item]:
            token, node, event = [*token, each], [*node, int(at)], [*event, index]
            at = trie.step(at, torch.tensor([each]))
    empty = torch.zeros(0, dtype=torch.long)
    tensors = (torch.tensor(part) for part in (token, node, event))
    return Batch(empty, empty, empty, *tensors, history_MT), trie


def crr_by_loops(paths: list[list[int]], targets: list[int], scores_MI: list[list[float]], final_NV: Tensor, inner: Tensor,
                 alpha: float) -> float:  # fmt: skip
    """Eq. 10 and 11 with prefixes as tuples, exact sums and no trie."""
    total, n = 0.0, 0
    for item, scores in zip(targets, scores_MI, strict=True):
        prob = softmax(scores)
        for depth in range(len(paths[item])):
            below = [i for i, path in enumerate(paths) if path[:depth] == paths[item][:depth]]
            mass = math.fsum(prob[i] for i in below)
            children = sorted({paths[i][depth] for i in below})
            share = {v: math.fsum(prob[i] for i in below if paths[i][depth] == v) for v in children}
            p_hat, q, y = softmax(inner[n].tolist()), softmax(final_NV[n].tolist()), paths[item][depth]
            members = [v for v in children if v == y or p_hat[v] >= alpha * p_hat[y]]
            labels = softmax([share[v] / mass for v in members])
            total -= math.fsum(label * math.log(q[v]) for label, v in zip(labels, members, strict=True))
            n += 1
    return total


class Fixed:
    """A reward model whose scores are given."""

    def __init__(self, scores_MI: Tensor):
        self.scores_MI = scores_MI

    def scores(self, history_MT: Tensor) -> Tensor:
        return self.scores_MI[: len(history_MT)]


def check(model: Any, scores_MI: Tensor, paths: list[list[int]], targets: list[int], history_MT: Tensor) -> Any:
    batch, trie = batch_for(paths, targets, history_MT)
    rewards = reward_source(model, trie)(batch)
    generator = torch.Generator().manual_seed(1)
    final, inner = torch.randn(2, len(batch.target_N), VOCABULARY, generator=generator, dtype=torch.float64).mul(2)
    config = Config(alpha=0.05)
    terms = ilrec_terms(final, inner[None], batch.target_N, config=config,
                        reward_tokens_NC=rewards.token_NC, reward_values_NC=rewards.value_NC)  # fmt: skip
    expected = crr_by_loops(paths, targets, scores_MI.double().tolist(), final, inner, config.alpha)
    assert terms.crr.item() == pytest.approx(expected, rel=1e-6)
    assert terms.crr_tokens == len(batch.target_N)
    return terms


@pytest.mark.parametrize("name", plugins.names("cf"))
def test_every_collaborative_model_is_a_reward_model(name: str) -> None:
    """Also BPR, which knows users: here there are none, so a user is the mean of the items shown."""
    torch.manual_seed(0)
    model, _ = _models.build_cf(name, {}, FACTS)
    with torch.no_grad():
        for parameter in model.parameters():  # untrained scores are nearly equal
            parameter.mul_(3)
        scores_MI = model.eval().scores(HISTORIES)
    assert scores_MI.std() > 0
    check(model, scores_MI, paths_of(30), [9, 0, 17], HISTORIES)


@pytest.mark.parametrize("deviation", [2, 6, 12])
@pytest.mark.parametrize("seed", [0, 1])
def test_sharp_scores_keep_their_digits(deviation: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores_MI = torch.randn(8, 30, generator=generator) * deviation
    worst = scores_MI.argmin(1).tolist()  # targets that the reward model thinks least likely: nearly massless prefixes
    check(Fixed(scores_MI), scores_MI, paths_of(30, seed), worst, HISTORIES[:1].expand(8, 4))


def test_one_item_in_the_trie() -> None:
    """Every node has one child: rewards and labels are 1, and CRR is cross-entropy."""
    scores_MI = torch.tensor([[3.0]])
    terms = check(Fixed(scores_MI), scores_MI, [[2, 6, END]], [0], HISTORIES[:1])
    torch.testing.assert_close(terms.crr, terms.ce, rtol=1e-12, atol=0)
    assert terms.stats["target_label"][0] == terms.stats["target_alone"][0] == 3
    assert terms.stats["sibling_penalty"][0] == 0


def test_items_that_share_a_path_share_its_mass() -> None:
    paths = [[2, 6, END], [2, 6, END], [2, 7, END], [3, 6, END]]
    scores_MI = torch.tensor([[0.3, 0.1, 0.9, 0.2]]).log()
    batch, trie = batch_for(paths, [0], HISTORIES[:1])
    values = reward_source(Fixed(scores_MI), trie)(batch).value_NC
    assert values is not None
    torch.testing.assert_close(values[0], torch.tensor([1.3 / 1.5, 0.2 / 1.5]))
    torch.testing.assert_close(values[1], torch.tensor([0.4 / 1.3, 0.9 / 1.3]))
    check(Fixed(scores_MI), scores_MI, paths, [1], HISTORIES[:1])
