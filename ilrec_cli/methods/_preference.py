"""Losses over pairs, in log space. Shapes: B rows, R responses (the chosen one first), J = R - 1 rejected ones.

`margin_BJ` is how much more the policy prefers the chosen response than the reference does:
D(chosen) - D(rejected), D(y) = log pi(y | x) - log pi_ref(y | x), summed over the tokens of y, its end token included.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ilrec_cli.lm.responses import Responses
from ilrec_cli.lm.terms import Terms

REFERENCE, SMOOTHING = "reference", "smoothing"  # what a row carries besides its responses


def margins(log_prob_BR: Tensor, reference_BR: Tensor) -> Tensor:
    """margin_BJ of every rejected response."""
    gain_BR = log_prob_BR - reference_BR
    return gain_BR[:, :1] - gain_BR[:, 1:]


def dpo(margin_BJ: Tensor, beta: float, smoothing_B1: Tensor | float = 0.0) -> Tensor:
    """loss_B: -(1 - eps) log sigma(beta d) - eps log sigma(-beta d), the mean over a row's pairs.

    Without smoothing eq. 7 of arXiv 2305.18290; with a constant one its "conservative" form.
    """
    scaled_BJ = beta * margin_BJ
    return -((1 - smoothing_B1) * F.logsigmoid(scaled_BJ) + smoothing_B1 * F.logsigmoid(-scaled_BJ)).mean(1)


def softmax_dpo(margin_BJ: Tensor, beta: float) -> Tensor:
    """loss_B: -log sigma(-log sum_j exp(-beta d_j)) (arXiv 2406.09215); of one rejected response it is `dpo`."""
    return F.softplus(torch.logsumexp(-beta * margin_BJ, 1))


def pair_loss(name: str, of: Callable[[Tensor, dict[str, Tensor]], Tensor]) -> Any:
    """The loss as the model calls it, from loss_B of (margin_BJ, what rows carry)."""

    def loss(log_prob_BRT: Tensor, batch: Responses) -> Terms:
        log_prob_BR = log_prob_BRT.sum(2)
        margin_BJ = margins(log_prob_BR, batch.extra[REFERENCE])
        loss_B = of(margin_BJ, batch.extra)
        return Terms(
            {name: (loss_B.sum(), _count(loss_B))}, statistics(log_prob_BR.detach(), margin_BJ.detach(), batch)
        )

    return loss


def statistics(log_prob_BR: Tensor, margin_BJ: Tensor, batch: Responses) -> dict[str, tuple[Tensor, Tensor]]:
    """Means over rows: log pi of both sides, the margin, how often the margin is positive, and the chosen one likelier."""
    found = {
        "log_prob_chosen": log_prob_BR[:, 0],
        "log_prob_rejected": log_prob_BR[:, 1:].mean(1),
        "margin": margin_BJ.mean(1),
        "preferred": (margin_BJ > 0).float().mean(1),
        "ranked": (log_prob_BR[:, :1] > log_prob_BR[:, 1:]).float().mean(1),
    }
    return {name: (value_B.sum(), _count(value_B)) for name, value_B in found.items()}


def _count(value_B: Tensor) -> Tensor:
    return value_B.new_full((), len(value_B))
