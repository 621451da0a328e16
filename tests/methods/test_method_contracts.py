"""What every training method owes: finite, differentiable, chunks add up, and only labelled positions count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from batches import VOCABULARY, a_batch, rewards_for
from conftest import llama, qwen2
from torch import Tensor

from ilrec_cli import plugins
from ilrec_cli.lm.examples import Batch
from ilrec_cli.lm.model import Rewards, SupervisedLM
from ilrec_cli.lm.responses import Responses, pack
from ilrec_cli.lm.terms import Terms

EVERY = [(name, phase) for name in plugins.names("methods") for phase in plugins.load("methods", name).phases(
    plugins.load("methods", name).Config())]  # fmt: skip

LOSSES = [each for each in EVERY if each[1].data == "next_item" or "ce" in (each[1].weights or {})]
PAIRS = [each for each in EVERY if each not in LOSSES]


def pairs(rows: int = 4, answers: int = 3, seed: int = 0) -> Responses:
    """Prompts of unlike lengths with responses, and a reference; the smoothing that some losses ask for."""
    rng = np.random.default_rng(seed)
    length_B = rng.integers(1, 6, size=rows)
    response_BRT = rng.integers(3, VOCABULARY, size=(rows, answers, 4))
    response_BRT[0, 1, 2:] = -1
    extra = {
        "reference": torch.from_numpy(rng.normal(-9, 2, size=(rows, answers)).astype(np.float32)),
        "smoothing": torch.from_numpy(rng.uniform(0, 0.4, size=(rows, answers - 1)).astype(np.float32)),
        "advantage": torch.from_numpy(rng.normal(size=(rows, answers)).astype(np.float32)),
        "token_reference": torch.from_numpy(rng.normal(-3, 1, size=(rows, answers, 4)).astype(np.float32)),
        **{name: torch.ones(rows, answers) for name in ("reward", "right")},
        "unique": torch.ones(rows),
    }
    return pack(rng.integers(3, VOCABULARY, size=length_B.sum()), length_B, response_BRT, extra=extra)


def loss_of(name: str, phase: Any) -> Any:
    plugin = plugins.load("methods", name)
    return plugins.named(plugin, phase.loss)(plugin.Config())


def weights_of(name: str, phase: Any) -> dict[str, float]:
    plugin = plugins.load("methods", name)
    return dict(phase.weights or plugin.weights(plugin.Config()))


def total(name: str, phase: Any, terms: Terms) -> Tensor:
    """The method's weighted sum: what the loop differentiates."""
    weights = weights_of(name, phase)
    return sum((weight * terms.losses[term][0] for term, weight in weights.items()), torch.zeros(()))


def run(
    name: str,
    phase: Any,
    batch: Batch | Responses,
    rewards: Rewards | None,
    chunk: int = 0,
    backbone: Callable[[], Any] = llama,
) -> tuple[Terms, dict[str, Tensor]]:
    model = SupervisedLM(backbone(), (1, 2))
    terms = model(batch, loss_of(name, phase), rewards, chunk)
    total(name, phase, terms).backward()
    return terms, {key: value.grad for key, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize(("name", "phase"), LOSSES, ids=str)
def test_terms_are_finite_and_reach_every_block(name: str, phase: Any) -> None:
    batch, _, _ = a_batch()
    terms, gradients = run(name, phase, batch, rewards_for(batch))
    assert all(value.isfinite() and count >= 0 for value, count in terms.losses.values())
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    for block in range(3):
        assert any(f"layers.{block}." in key and gradient.any() for key, gradient in gradients.items())


@pytest.mark.parametrize("backbone", [llama, qwen2])
@pytest.mark.parametrize(("name", "phase"), LOSSES, ids=str)
def test_chunks_add_up(name: str, phase: Any, backbone: Callable[[], Any]) -> None:
    batch, _, _ = a_batch()
    rewards = rewards_for(batch)
    whole, gradients = run(name, phase, batch, rewards, backbone=backbone)
    for chunk in (1, 7, len(batch.target_N)):
        terms, found = run(name, phase, batch, rewards, chunk, backbone)
        for term, (value, count) in {**whole.losses, **whole.stats}.items():
            other = {**terms.losses, **terms.stats}[term]
            torch.testing.assert_close(other[0], value, rtol=2e-6, atol=1e-6, msg=f"{term} at chunk {chunk}")
            assert other[1] == count
        for parameter, gradient in gradients.items():
            torch.testing.assert_close(found[parameter], gradient, rtol=1e-3, atol=1e-4, msg=parameter)


@pytest.mark.parametrize(("name", "phase"), LOSSES, ids=str)
def test_padding_and_unlabelled_rows_change_nothing(name: str, phase: Any) -> None:
    batch, _, row_N = a_batch(rows=3)
    rewards = rewards_for(batch)
    alone, gradients = run(name, phase, batch, rewards)
    width = batch.input_BS.shape[1]
    unlabelled = torch.randint(3, VOCABULARY, (1, width + 4))
    wider = batch._replace(
        input_BS=torch.cat([F.pad(batch.input_BS, (0, 4), value=2), unlabelled]),
        mask_BS=torch.cat([F.pad(batch.mask_BS, (0, 4)), torch.ones_like(unlabelled)]),
        position_N=batch.position_N + 4 * row_N,
    )
    together, found = run(name, phase, wider, rewards)
    for term, (value, count) in alone.losses.items():
        torch.testing.assert_close(together.losses[term][0], value, rtol=1e-5, atol=1e-5)
        assert together.losses[term][1] == count
    for parameter, gradient in gradients.items():
        torch.testing.assert_close(found[parameter], gradient, rtol=1e-3, atol=1e-4, msg=parameter)


@pytest.mark.parametrize("name", plugins.names("methods"))
def test_light_part_agrees_with_the_loss(name: str) -> None:
    plugin = plugins.load("methods", name)
    config = plugin.Config()
    assert set(plugin.needs(config)) <= set(plugin.NEEDS)
    batch, _, _ = a_batch()
    for each in [each for each in EVERY if each[0] == name]:
        phase = each[1]
        terms, _ = run(name, phase, pairs(), None) if each in PAIRS else run(name, phase, batch, rewards_for(batch))
        assert set(weights_of(name, phase)) <= set(terms.losses)


@pytest.mark.parametrize(("name", "phase"), PAIRS, ids=str)
def test_terms_of_pairs_are_finite_and_reach_every_block(name: str, phase: Any) -> None:
    terms, gradients = run(name, phase, pairs(), None)
    assert all(value.isfinite() and count == 4 for value, count in terms.losses.values())
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    for block in range(3):
        assert any(f"layers.{block}." in key and gradient.any() for key, gradient in gradients.items())


@pytest.mark.parametrize(("name", "phase"), PAIRS, ids=str)
def test_chunks_and_rows_of_pairs_add_up(name: str, phase: Any) -> None:
    whole, gradients = run(name, phase, pairs(), None)
    for chunk in (1, 7):
        terms, found = run(name, phase, pairs(), None, chunk)
        for term, (value, count) in whole.losses.items():
            torch.testing.assert_close(terms.losses[term][0], value, rtol=1e-6, atol=1e-6)
            assert terms.losses[term][1] == count
        for parameter, gradient in gradients.items():
            torch.testing.assert_close(found[parameter], gradient, rtol=1e-3, atol=1e-4, msg=parameter)
