"""ILRec as its equations read, in plain autograd: every position and layer projected, every softmax over all of them.

B rows, S positions, V vocabulary, N supervised positions, K layers, C children. Supervised positions are picked at the end.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ilrec_cli.lm.model import Rewards
from ilrec_cli.methods.ilrec import Config


def loss(final_BSV: Tensor, inner_KBSV: list[Tensor], labels_BS: Tensor, rewards: Rewards, config: Config) -> Tensor:
    """Mean of eq. 12 over the positions that have a label; `labels_BS` are of the next token, -100 where there is none."""
    supervised_BS, target_BS1 = labels_BS >= 0, labels_BS.clamp(min=0)[:, :, None]
    ensemble_BSV = torch.stack(inner_KBSV).mean(0).detach()
    prob_BSV = ensemble_BSV.softmax(-1)
    negative_BSV = prob_BSV >= config.alpha * prob_BSV.gather(-1, target_BS1)
    negative_BSV = negative_BSV.scatter(-1, target_BS1, value=False)
    weight_BSV = ensemble_BSV.masked_fill(~negative_BSV, -torch.inf).softmax(-1).nan_to_num(0.0)  # nan: no negative
    z_BSV = final_BSV * (1 + config.beta * weight_BSV)
    cpo_BS = F.cross_entropy(z_BSV.flatten(0, 1), target_BS1.flatten(), reduction="none").view_as(labels_BS)
    log_teacher_BSV = final_BSV.log_softmax(-1)
    cpd_BS = torch.zeros_like(cpo_BS)
    for logits_BSV in inner_KBSV:
        log_student_BSV = logits_BSV.log_softmax(-1)
        cpd_BS = cpd_BS + (log_student_BSV.exp() * (log_student_BSV - log_teacher_BSV.detach())).sum(-1)
    crr_N = _crr(log_teacher_BSV[supervised_BS], negative_BSV[supervised_BS], labels_BS[supervised_BS], rewards)
    return (cpo_BS + config.lambda_cpd * cpd_BS)[supervised_BS].mean() + config.mu_crr * crr_N.mean()


def _crr(log_prob_NV: Tensor, negative_NV: Tensor, target_N: Tensor, rewards: Rewards) -> Tensor:
    """Eq. 11: soft labels over the negatives that continue an item, and the target."""
    assert rewards.value_NC is not None
    width = log_prob_NV.shape[1]
    place_NC = rewards.token_NC.masked_fill(rewards.token_NC < 0, width)
    reward_NV = log_prob_NV.new_full((len(target_N), width + 1), -torch.inf)
    reward_NV = reward_NV.scatter(1, place_NC, rewards.value_NC.to(reward_NV))[:, :width]
    compared_NV = negative_NV.scatter(1, target_N[:, None], value=True)
    soft_NV = reward_NV.masked_fill(~compared_NV, -torch.inf).softmax(1)
    return -(soft_NV * log_prob_NV).sum(1)
