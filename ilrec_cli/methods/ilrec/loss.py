"""ILRec's three terms. Everything here is a pure function of logits, targets and rewards.

Shapes: N supervised positions, V vocabulary, K candidate layers, C children of a trie node. P^L are the final
logits, P^l those of the candidate layers, y the targets. Whatever serves as the ensemble is detached: intermediate
layers learn through CPD alone.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ilrec_cli.lm.terms import Terms
from ilrec_cli.methods.ilrec import Config
from ilrec_cli.methods.ilrec.fused import divergence, soft_cross_entropy
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
    target_N1 = target_N[:, None]
    crr_N, crr_count, log_total_N1 = collaborative_loss(
        final_NV, negative_NV, target_N, reward_tokens_NC, reward_values_NC, config
    )
    ce = (log_total_N1 - final_NV.detach().gather(1, target_N1)).sum()
    if config.beta:
        penalised_NV = penalised(final_NV, weight_NV, config)
        cpo = soft_cross_entropy(penalised_NV, target_N1, torch.ones_like(log_total_N1))[0].sum()
    else:
        cpo = F.cross_entropy(final_NV, target_N, reduction="sum")
    cpd = distillation(final_NV.detach(), log_total_N1, inner_KNV if config.lambda_cpd else inner_KNV.detach(), config)
    tokens = cpo.new_full((), len(target_N))
    losses = {"cpo": (cpo, tokens), "cpd": (cpd, tokens), "crr": (crr_N.sum(), crr_count), "ce": (ce, tokens)}
    if config.negatives_from == "ensemble" and not len(inner_KNV):
        return Terms(losses)  # no term uses negatives, so there is no ensemble to say anything of
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


def distillation(teacher_NV: Tensor, log_total_N1: Tensor, inner_KNV: Tensor, config: Config) -> Tensor:
    """Sum over positions and candidate layers of KL(student || teacher) (eq. 8), over the whole vocabulary.

    `teacher_NV` are the final layer's logits, detached, with their logsumexp; students are the layers' logits.
    """
    if not len(inner_KNV):
        return teacher_NV.new_zeros(())
    return divergence(inner_KNV, teacher_NV, log_total_N1, student_first=config.kl == "student_teacher")


def collaborative_loss(
    final_NV: Tensor, negative_NV: Tensor, target_N: Tensor, token_NC: Tensor | None, reward_NC: Tensor | None,
    config: Config,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """(L_CRR (eq. 11) of each position, number of positions that have it, logsumexp_N1 of the final layer's logits).

    Soft labels: softmax over H = V_N and y of r_v, constant. Negatives that continue no item are left out of H, or
    kept with r_v = 0 (`crr_scope = all`).
    """
    if token_NC is None or reward_NC is None:  # no loss; the pass is for the logsumexp alone
        target_N1 = target_N[:, None]
        nothing_N, log_total_N1 = soft_cross_entropy(final_NV.detach(), target_N1, final_NV.new_zeros(len(target_N), 1))
        return nothing_N, final_NV.new_zeros(()), log_total_N1
    real_NC, token_NC = token_NC >= 0, token_NC.clamp(min=0)
    has_N = real_NC.sum(1) > 0
    if config.crr_scope == "all":
        reward_NV = torch.zeros_like(final_NV).scatter_add_(1, token_NC, reward_NC.to(final_NV.dtype) * real_NC)
        in_H = negative_NV.scatter(1, target_N[:, None], True)
        token_NC = torch.arange(final_NV.shape[1], device=final_NV.device).expand_as(final_NV)
        label_NC = _soft_labels(reward_NV, in_H)
    else:
        is_target = real_NC & (token_NC == target_N[:, None])
        # y is in H even where it is not among the tokens (its reward is 0 then): a column of its own.
        token_NC = torch.cat([token_NC, target_N[:, None]], 1)
        in_H = torch.cat(
            [real_NC & negative_NV.gather(1, token_NC[:, :-1]) | is_target, ~is_target.any(1, keepdim=True)], 1
        )
        label_NC = _soft_labels(F.pad(reward_NC.to(final_NV.dtype), (0, 1)), in_H)
    loss_N, log_total_N1 = soft_cross_entropy(final_NV, token_NC, label_NC * has_N[:, None])
    return loss_N, has_N.sum().to(final_NV.dtype), log_total_N1


def _soft_labels(reward: Tensor, in_H: Tensor) -> Tensor:
    return reward.masked_fill(~in_H, torch.finfo(reward.dtype).min).softmax(-1) * in_H


def _as_mask(token_NC: Tensor, vocabulary: int) -> Tensor:
    mask = torch.zeros(len(token_NC), vocabulary + 1, dtype=torch.bool, device=token_NC.device)
    return mask.scatter(1, torch.where(token_NC >= 0, token_NC, vocabulary), True)[:, :vocabulary]


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits if logits.dtype in (torch.float32, torch.float64) else logits.float()
