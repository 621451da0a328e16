"""The policy's gradient by advantages, and the distance to the reference. Shapes: B prompts, R answers, T tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ilrec_cli.lm.responses import Responses
from ilrec_cli.lm.terms import Terms
from ilrec_cli.methods.grpo import Config

# What rows carry: of every answer its advantage, reward and whether it is right; of every token log pi_ref; of every
# group the share of its answers that are different.
ADVANTAGE, REWARD, RIGHT, TOKEN_REFERENCE, UNIQUE = "advantage", "reward", "right", "token_reference", "unique"
STEEP = 20.0  # exp is continued by a line from here on: finite for any difference


def make_loss(config: Config) -> Any:
    """policy = -A exp(log pi - sg(log pi)), kl = exp(d) - d - 1 with d = log pi_ref - log pi, token by token.

    Answers are of the policy as it is, so the ratio is 1 and there is nothing to clip. Probabilities are those of the
    whole vocabulary, although answers are searched among items. `average` says over what tokens are averaged.
    """

    def loss(log_prob_BRT: Tensor, batch: Responses) -> Terms:
        extra, inside_BRT = batch.extra, batch.index_BRT >= 0
        ratio_BRT = (log_prob_BRT - log_prob_BRT.detach()).exp()
        token_losses = {
            "policy": -ratio_BRT * extra[ADVANTAGE][:, :, None],
            "kl": k3(extra[TOKEN_REFERENCE] - log_prob_BRT),
        }
        average = _by_sequence if config.average == "sequence" else _by_token
        return Terms(
            {name: average(loss_BRT, inside_BRT) for name, loss_BRT in token_losses.items()}, _statistics(extra)
        )

    return loss


def k3(d: Tensor) -> Tensor:
    """exp(d) - d - 1: an estimate of KL(policy, reference) that is never negative."""
    return d.clamp(max=STEEP).exp() * (1 + (d - STEEP).clamp(min=0)) - d - 1


def _by_sequence(loss_BRT: Tensor, inside_BRT: Tensor) -> tuple[Tensor, Tensor]:
    """(sum over prompts of the mean over their answers of the mean over tokens, number of prompts)."""
    length_BR = inside_BRT.sum(2)
    mean_BR = torch.where(inside_BRT, loss_BRT, 0).sum(2) / length_BR.clamp(min=1)
    answers_B = (length_BR > 0).sum(1).clamp(min=1)
    return (mean_BR.sum(1) / answers_B).sum(), answers_B.new_full((), len(answers_B))


def _by_token(loss_BRT: Tensor, inside_BRT: Tensor) -> tuple[Tensor, Tensor]:
    return torch.where(inside_BRT, loss_BRT, 0).sum(), inside_BRT.sum()


def _statistics(extra: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Means over prompts: reward, how often the first and any answer is right, the share of different answers."""
    right_BR = extra[RIGHT]
    found = {
        "reward": extra[REWARD].mean(1), "rollout_hit@1": right_BR[:, 0], "rollout_hit@all": right_BR.amax(1),
        "unique": extra[UNIQUE],
    }  # fmt: skip
    return {name: (value_B.sum(), value_B.new_full((), len(value_B))) for name, value_B in found.items()}
