"""The losses over pairs against loops in plain Python, against TRL's, and at margins that overflow."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ilrec_cli.lm.responses import Responses
from ilrec_cli.lm.terms import Terms
from ilrec_cli.methods import dpo, rosepo, s_dpo, sprec
from ilrec_cli.methods._preference import softmax_dpo
from ilrec_cli.methods.dpo.loss import make_loss as make_dpo
from ilrec_cli.methods.rosepo.loss import make_loss as make_rosepo
from ilrec_cli.methods.s_dpo.loss import make_loss as make_s_dpo
from ilrec_cli.methods.sprec.loss import make_loss as make_sprec

GOLDEN = Path(__file__).with_name("trl_golden.json")


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def margins(log_prob_BRT: Tensor, reference_BR: Tensor) -> list[list[float]]:
    """Token by token."""
    found = []
    for row, reference in zip(log_prob_BRT.tolist(), reference_BR.tolist(), strict=True):
        gains = []
        for tokens, before in zip(row, reference, strict=True):
            total = -before
            for token in tokens:
                total += token
            gains.append(total)
        found.append([gains[0] - gain for gain in gains[1:]])
    return found


def a_batch(rows: int = 5, answers: int = 4, seed: int = 0) -> tuple[Tensor, Responses]:
    """Log-probabilities with zeros behind the responses' ends, and what rows carry."""
    generator = torch.Generator().manual_seed(seed)
    log_prob = -2 * torch.rand(rows, answers, 6, generator=generator, dtype=torch.float64)
    log_prob[0, 1, 3:] = 0
    reference = -6 * torch.rand(rows, answers, generator=generator, dtype=torch.float64)
    smoothing = 0.45 * torch.rand(rows, answers - 1, generator=generator, dtype=torch.float64)
    return log_prob, carrying(reference=reference, smoothing=smoothing)


def carrying(**extra: Tensor) -> Responses:
    empty = torch.zeros(0)
    return Responses(empty, empty, empty, empty, empty, empty, True, extra)


def value(terms: Terms, name: str) -> Tensor:
    assert list(terms.losses) == [name]
    return terms.losses[name][0]


def smoothed(d: float, beta: float, eps: float) -> float:
    return -(1 - eps) * math.log(sigma(beta * d)) - eps * math.log(sigma(-beta * d))


def test_dpo_is_the_loop() -> None:
    log_prob, batch = a_batch()
    for config in (dpo.Config(negatives=3), dpo.Config(beta=0.7, smoothing=0.2)):
        rows = margins(log_prob, batch.extra["reference"])
        wanted = sum(sum(smoothed(d, config.beta, config.smoothing) for d in row) / 3 for row in rows)
        terms = make_dpo(config)(log_prob, batch)
        assert value(terms, "dpo").item() == pytest.approx(wanted, rel=1e-12)
        assert terms.losses["dpo"][1] == 5
        assert terms.means()["preferred"] == pytest.approx(sum(d > 0 for row in rows for d in row) / 15)
    other = make_dpo(dpo.Config(beta=0.71, smoothing=0.2))(log_prob, batch)
    assert value(other, "dpo").item() != pytest.approx(wanted, rel=1e-3)


def test_s_dpo_is_the_loop() -> None:
    log_prob, batch = a_batch()
    for beta in (0.1, 1.0):
        rows = margins(log_prob, batch.extra["reference"])
        wanted = sum(-math.log(sigma(-math.log(sum(math.exp(-beta * d) for d in row)))) for row in rows)
        found = value(make_s_dpo(s_dpo.Config(beta=beta))(log_prob, batch), "s_dpo")
        assert found.item() == pytest.approx(wanted, rel=1e-12)


def test_s_dpo_is_cross_entropy_of_the_chosen_response_in_a_softmax_of_gains() -> None:
    log_prob, batch = a_batch()
    gain = log_prob.sum(2) - batch.extra["reference"]
    wanted = torch.nn.functional.cross_entropy(0.3 * gain, torch.zeros(5, dtype=torch.long), reduction="sum")
    found = value(make_s_dpo(s_dpo.Config(beta=0.3))(log_prob, batch), "s_dpo")
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)


def test_s_dpo_with_one_negative_is_dpo() -> None:
    log_prob, batch = a_batch(answers=2)
    found = []
    for make, config, name in ((make_dpo, dpo.Config(beta=0.4), "dpo"), (make_s_dpo, s_dpo.Config(beta=0.4), "s_dpo")):
        given = log_prob.clone().requires_grad_()
        loss = value(make(config)(given, batch), name)  # type: ignore[operator]
        loss.backward()
        found.append((loss.detach(), given.grad))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-15)


def test_rosepo_smooths_each_pair_by_its_own_and_sprec_is_dpo() -> None:
    log_prob, batch = a_batch(answers=2)
    rows, eps = margins(log_prob, batch.extra["reference"]), batch.extra["smoothing"].tolist()
    wanted = sum(smoothed(row[0], 1.0, own[0]) for row, own in zip(rows, eps, strict=True))
    assert value(make_rosepo(rosepo.Config())(log_prob, batch), "rosepo").item() == pytest.approx(wanted, rel=1e-12)
    constant = carrying(reference=batch.extra["reference"])
    wanted = sum(smoothed(row[0], 1.0, 0.1) for row in rows)
    found = make_rosepo(rosepo.Config(smoothing="constant"))(log_prob, constant)
    assert value(found, "rosepo").item() == pytest.approx(wanted, rel=1e-12)
    wanted = sum(smoothed(row[0], 0.1, 0.0) for row in rows)
    assert value(make_sprec(sprec.Config())(log_prob, batch), "dpo").item() == pytest.approx(wanted, rel=1e-12)


LOSSES: list[tuple[Any, Any]] = [
    (make_dpo, dpo.Config(beta=1.0)), (make_dpo, dpo.Config(beta=1.0, smoothing=0.3)), (make_s_dpo, s_dpo.Config()),
    (make_rosepo, rosepo.Config()), (make_sprec, sprec.Config(beta=1.0)),
]  # fmt: skip


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("margin", [-1e4, -90.0, 0.0, 90.0, 1e4])
@pytest.mark.parametrize(
    ("make", "config"), LOSSES, ids=[type(config).__module__.rpartition(".")[2] for _, config in LOSSES]
)
def test_losses_and_gradients_are_finite_at_any_margin(
    make: Any, config: Any, margin: float, kind: torch.dtype
) -> None:
    log_prob = torch.tensor([[[margin], [0.0], [-1.0]]], dtype=kind, requires_grad=True)
    batch = carrying(reference=torch.zeros(1, 3, dtype=kind), smoothing=torch.full((1, 2), 0.2, dtype=kind))
    (loss, _) = next(iter(make(config)(log_prob, batch).losses.values()))
    loss.backward()
    assert loss.isfinite()
    assert log_prob.grad is not None
    assert log_prob.grad.isfinite().all()
    if margin == -1e4:
        assert log_prob.grad[0, 0, 0] < -0.2, "the chosen response is to be raised"


def test_the_softmax_of_equal_margins_counts_the_negatives() -> None:
    """n equal negatives: softplus(log n - beta d)."""
    found = softmax_dpo(torch.full((1, 5), 2.0, dtype=torch.float64), 0.5)
    assert found.item() == pytest.approx(math.log(1 + 5 * math.exp(-1)), rel=1e-12)


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_dpo_is_trls(beta: float) -> None:
    """Its loss and gradient for the same log-probabilities, as tests/methods/trl_golden.py recorded them."""
    golden = json.loads(GOLDEN.read_text())
    log_prob, reference = (torch.tensor(golden[name], dtype=torch.float64) for name in ("log_prob", "reference"))
    given = log_prob.clone().requires_grad_()
    pairs_BRT = torch.stack(given.chunk(2), 1)
    terms = make_dpo(dpo.Config(beta=beta))(pairs_BRT, carrying(reference=torch.stack(reference.chunk(2), 1)))
    loss = value(terms, "dpo") / terms.losses["dpo"][1]
    loss.backward()
    assert loss.item() == pytest.approx(golden[f"beta {beta}"]["loss"], rel=1e-12)
    inside = torch.tensor(golden["mask"])[:, 1:] > 0
    assert given.grad is not None
    wanted = torch.tensor(golden[f"beta {beta}"]["gradient"], dtype=torch.float64)
    torch.testing.assert_close(given.grad[inside], wanted[inside], rtol=1e-12, atol=1e-15)


def test_the_record_of_trl_is_what_it_gives_today() -> None:
    pytest.importorskip("trl")
    import trl_golden

    golden = json.loads(GOLDEN.read_text())
    for beta in (0.1, 1.0):
        log_prob, reference = (torch.tensor(golden[name], dtype=torch.float64) for name in ("log_prob", "reference"))
        loss = trl_golden.trl_loss(log_prob, reference, torch.tensor(golden["mask"]), beta)
        assert loss.item() == pytest.approx(golden[f"beta {beta}"]["loss"], rel=1e-12)
