"""ILRec's three terms. Everything here is a pure function of logits, targets and rewards.

Shapes: N supervised positions, V vocabulary, K candidate layers, C children of a trie node. P^L are the final
logits, P^l those of the candidate layers, y the targets. Whatever serves as the ensemble is detached: intermediate
layers learn through CPD alone.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ilrec_cli.lm.terms import Terms
from ilrec_cli.methods.ilrec import Config
from ilrec_cli.methods.ilrec.statistics import Found, statistics


def make_loss(config: Config) -> object:
    """The loss of this configuration, as the model calls it chunk by chunk."""

    def loss(
        final_NV: Tensor, inner_KNV: Tensor, target_N: Tensor, *,
        reward_tokens_NC: Tensor | None = None, reward_values_NC: Tensor | None = None,
    ) -> Terms:  # fmt: skip
        return ilrec_terms(
            final_NV, inner_KNV, target_N,
            config=config, reward_tokens_NC=reward_tokens_NC, reward_values_NC=reward_values_NC,
        )  # fmt: skip

    return loss


def ilrec_terms(
    final_NV: Tensor, inner_KNV: Tensor, target_N: Tensor, *, config: Config,
    reward_tokens_NC: Tensor | None = None, reward_values_NC: Tensor | None = None,
) -> Terms:  # fmt: skip
    """Sums of L_CPO, L_CPD and L_CRR over the positions, and plain cross-entropy (without gradient).

    `reward_tokens_NC` are the tokens that continue an item at each position, padded with -1, and `reward_values_NC`
    their collaborative rewards r_v (eq. 10). A position without such tokens has no L_CRR and does not count in it.
    """
    final_NV, inner_KNV = _at_least_float32(final_NV), _at_least_float32(inner_KNV)
    with torch.no_grad():
        ensemble_NV = final_NV if config.negatives_from == "final" else ensemble(inner_KNV, config)
        negative_NV = negatives(ensemble_NV, target_N, config, reward_tokens_NC)
        weight_NV = penalty_weights(ensemble_NV, negative_NV, config)
    cpo = F.cross_entropy(penalised(final_NV, weight_NV, config), target_N, reduction="sum")
    log_prob_NV = final_NV.log_softmax(-1)
    cpd = distillation(log_prob_NV.detach(), inner_KNV if config.lambda_cpd else inner_KNV.detach(), config)
    crr, crr_count = collaborative_loss(log_prob_NV, negative_NV, target_N, reward_tokens_NC, reward_values_NC, config)
    ce = F.nll_loss(log_prob_NV.detach(), target_N, reduction="sum")
    tokens = cpo.new_full((), len(target_N))
    losses = {"cpo": (cpo, tokens), "cpd": (cpd, tokens), "crr": (crr, crr_count), "ce": (ce, tokens)}
    found = Found(final_NV.detach(), negative_NV, weight_NV, target_N)
    return Terms(losses, statistics(found, reward_tokens_NC, reward_values_NC, config))


def ensemble(inner_KNV: Tensor, config: Config) -> Tensor:
    """P-hat (eq. 3): the mean of the candidate layers' logits, or weighted per position (Table 10; forms are ours)."""
    if not len(inner_KNV) and (config.beta > 0 or config.mu_crr > 0):
        raise ValueError("negatives_from = ensemble needs at least one layer below the last")
    if len(inner_KNV) == 1:
        return inner_KNV[0]
    if config.ensemble == "mean":
        return inner_KNV.mean(0)
    log_prob_KNV = inner_KNV.log_softmax(-1)
    if config.ensemble == "max_prob":
        share_KN = log_prob_KNV.amax(-1).exp()
    elif config.ensemble == "entropy":
        entropy_KN = -(log_prob_KNV.exp() * log_prob_KNV).sum(-1)
        share_KN = (-entropy_KN).softmax(0)
    else:
        share_KN = inner_KNV.var(-1, correction=0)
    share_KN = share_KN + torch.finfo(share_KN.dtype).tiny  # layers of constant logits share alike
    share_KN = share_KN / share_KN.sum(0)
    return (share_KN[:, :, None] * inner_KNV).sum(0)


def negatives(ensemble_NV: Tensor, target_N: Tensor, config: Config, allowed_NC: Tensor | None) -> Tensor:
    """V_N (eq. 4, 5) as a mask: tokens other than y with p-hat(v) >= alpha p-hat(y).

    Compared as logits, P-hat(v) >= P-hat(y) + log alpha: the same set, without the underflow of tiny probabilities.
    """
    target_N1 = target_N[:, None]
    log_alpha = math.log(config.alpha) if config.alpha > 0 else -math.inf
    negative_NV = ensemble_NV >= ensemble_NV.gather(1, target_N1) + log_alpha
    if config.negatives_scope == "trie":
        if allowed_NC is None:
            raise ValueError("negatives_scope = trie needs the tokens that continue an item at every position")
        negative_NV &= _as_mask(allowed_NC, negative_NV.shape[1])
    return negative_NV.scatter_(1, target_N1, False)


def penalty_weights(ensemble_NV: Tensor, negative_NV: Tensor, config: Config) -> Tensor:
    """w_v (eq. 6): softmax over V_N of P-hat, that is, p-hat renormalised over V_N; 0 outside, and where V_N is empty."""
    value_NV = ensemble_NV if config.weight_by == "logits" else ensemble_NV.softmax(-1)
    # Of the lowest finite value softmax makes exactly 0, except in a row without negatives, which is zeroed as a whole.
    # (Not -inf, of which such a row would be NaN; and no second mask, which on a CPU costs more than the softmax.)
    value_NV = torch.where(negative_NV, value_NV, torch.finfo(value_NV.dtype).min)
    return value_NV.softmax(-1).mul_(negative_NV.sum(1, keepdim=True) > 0)


def penalised(final_NV: Tensor, weight_NV: Tensor, config: Config) -> Tensor:
    """z of eq. 7: P^L (1 + beta w) as printed, or P^L + beta w |P^L|, which raises every negative."""
    if config.penalty == "scale":
        return final_NV * (1 + config.beta * weight_NV)
    return final_NV + config.beta * weight_NV * final_NV.detach().abs()


def distillation(teacher_NV: Tensor, inner_KNV: Tensor, config: Config) -> Tensor:
    """Sum over positions and candidate layers of KL(student || teacher) (eq. 8), over the whole vocabulary.

    `teacher_NV` are the final layer's log-probabilities, detached; students are the layers' logits.
    """
    if not len(inner_KNV):
        return teacher_NV.new_zeros(())
    total: Tensor = _Divergence.apply(inner_KNV, teacher_NV, config.kl == "student_teacher")  # type: ignore[no-untyped-call]
    return total


class _Divergence(torch.autograd.Function):
    """KL(p || q) or KL(q || p) of p = softmax(student) and a constant q, with the gradient in closed form.

    d KL(p || q) / d student_v = p_v (log p_v / q_v - KL), d KL(q || p) / d student_v = p_v - q_v: one buffer is kept in
    place of the four of plain operations.
    """

    @staticmethod
    def forward(ctx: Any, student_KNV: Tensor, teacher_NV: Tensor, student_first: bool) -> Tensor:
        # Not the exponential of the logarithms: on a CPU a fused softmax takes less time.
        prob_KNV, ratio_KNV = student_KNV.softmax(-1), student_KNV.log_softmax(-1).sub_(teacher_NV)
        if student_first:
            kl_KN1 = torch.linalg.vecdot(prob_KNV, ratio_KNV)[:, :, None]
            gradient_KNV = prob_KNV.mul_(ratio_KNV.sub_(kl_KN1))
        else:
            kl_KN1 = -torch.linalg.vecdot(teacher_NV.exp(), ratio_KNV)[:, :, None]
            gradient_KNV = prob_KNV.sub_(teacher_NV.exp())
        ctx.save_for_backward(gradient_KNV)
        return kl_KN1.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (gradient_KNV,) = ctx.saved_tensors
        return gradient_KNV * grad, None, None


def collaborative_loss(
    log_prob_NV: Tensor,
    negative_NV: Tensor,
    target_N: Tensor,
    token_NC: Tensor | None,
    reward_NC: Tensor | None,
    config: Config,
) -> tuple[Tensor, Tensor]:
    """(sum of L_CRR (eq. 11), number of positions that have it), from the final layer's log-probabilities.

    Soft labels: softmax over H = V_N and y of r_v, constant. Negatives that continue no item are left out of H, or
    kept with r_v = 0 (`crr_scope = all`).
    """
    if token_NC is None or reward_NC is None:
        return log_prob_NV.new_zeros(()), log_prob_NV.new_zeros(())
    real_NC, token_NC = token_NC >= 0, token_NC.clamp(min=0)
    has_N = real_NC.sum(1) > 0
    if config.crr_scope == "all":
        reward_NV = torch.zeros_like(log_prob_NV).scatter_add(1, token_NC, reward_NC.to(log_prob_NV.dtype) * real_NC)
        in_H = negative_NV.scatter(1, target_N[:, None], True)
        loss_N = _soft_label_loss(log_prob_NV, reward_NV, in_H)
    else:
        is_target = real_NC & (token_NC == target_N[:, None])
        # y is in H even where it is not among the tokens (its reward is 0 then): a column of its own.
        token_NC = torch.cat([token_NC, target_N[:, None]], 1)
        in_H = torch.cat(
            [real_NC & negative_NV.gather(1, token_NC[:, :-1]) | is_target, ~is_target.any(1, keepdim=True)], 1
        )
        reward_NC = F.pad(reward_NC.to(log_prob_NV.dtype), (0, 1))
        loss_N = _soft_label_loss(log_prob_NV.gather(1, token_NC), reward_NC, in_H)
    return torch.where(has_N, loss_N, 0.0).sum(), has_N.sum().to(log_prob_NV.dtype)


def _soft_label_loss(log_prob: Tensor, reward: Tensor, in_H: Tensor) -> Tensor:
    label = reward.masked_fill(~in_H, torch.finfo(reward.dtype).min).softmax(-1)
    return -(label * log_prob).masked_fill(~in_H, 0.0).sum(-1)


def _as_mask(token_NC: Tensor, vocabulary: int) -> Tensor:
    mask = torch.zeros(len(token_NC), vocabulary + 1, dtype=torch.bool, device=token_NC.device)
    return mask.scatter(1, torch.where(token_NC >= 0, token_NC, vocabulary), True)[:, :vocabulary]


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits if logits.dtype in (torch.float32, torch.float64) else logits.float()
