"""Cross-entropy and divergence with their gradients in closed form: one softmax each, kept for the backward pass.

On a CPU exponentials are most of a loss's time; plain operations take twice as many of them and keep more buffers. The
logarithm of a softmax's sum follows from its largest probability, which is at least 1 / V, without another pass.
Shapes: N supervised positions, V vocabulary, K candidate layers, C tokens with a label.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def soft_cross_entropy(logits_NV: Tensor, token_NC: Tensor, label_NC: Tensor) -> tuple[Tensor, Tensor]:
    """(-sum_c label_c log softmax(logits)[token_c] at each position, logsumexp_N1 of the logits, without gradient)."""
    found: tuple[Tensor, Tensor] = _SoftCrossEntropy.apply(logits_NV, token_NC, label_NC)  # type: ignore[no-untyped-call]
    return found


def divergence(student_KNV: Tensor, teacher_NV: Tensor, log_total_N1: Tensor, *, student_first: bool) -> Tensor:
    """Sum of KL(p || q), or of KL(q || p), of p = softmax(student) and a constant q = exp(teacher - log_total)."""
    found: Tensor = _Divergence.apply(student_KNV, teacher_NV, log_total_N1, student_first)  # type: ignore[no-untyped-call]
    return found


class _SoftCrossEntropy(torch.autograd.Function):
    """d loss / d logits_v = sum_c label_c softmax(logits)_v - label_v."""

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, token_NC: Tensor, label_NC: Tensor) -> tuple[Tensor, Tensor]:
        prob_NV = logits_NV.softmax(-1)
        log_total_N1 = _log_total(logits_NV, prob_NV)
        loss_NC = (log_total_N1 - logits_NV.gather(1, token_NC)) * label_NC
        ctx.save_for_backward(prob_NV, token_NC, label_NC)
        ctx.mark_non_differentiable(log_total_N1)
        return loss_NC.masked_fill(label_NC == 0, 0.0).sum(1), log_total_N1  # 0 x infinity counts as nothing

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        prob_NV, token_NC, label_NC = ctx.saved_tensors
        label_NC = label_NC * grad_N[:, None]
        return (prob_NV * label_NC.sum(1, keepdim=True)).scatter_add_(1, token_NC, -label_NC), None, None


class _Divergence(torch.autograd.Function):
    """d KL(p || q) / d student_v = p_v (log p_v / q_v - KL), d KL(q || p) / d student_v = p_v - q_v."""

    @staticmethod
    def forward(ctx: Any, student_KNV: Tensor, teacher_NV: Tensor, log_total_N1: Tensor, student_first: bool) -> Tensor:
        prob_KNV = student_KNV.softmax(-1)
        more_KN1 = log_total_N1 - _log_total(student_KNV, prob_KNV)
        apart_KNV = student_KNV - teacher_NV  # log p / q is this plus `more`
        if student_first:
            mean_KN1 = torch.linalg.vecdot(prob_KNV, apart_KNV)[:, :, None]
            gradient_KNV = prob_KNV.mul_(apart_KNV.sub_(mean_KN1))
            total = (mean_KN1 + more_KN1).sum()
        else:
            teacher_NV = (teacher_NV - log_total_N1).exp_()
            total = -(torch.linalg.vecdot(teacher_NV, apart_KNV)[:, :, None] + more_KN1).sum()
            gradient_KNV = prob_KNV.sub_(teacher_NV)
        ctx.save_for_backward(gradient_KNV)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient_KNV,) = ctx.saved_tensors
        return gradient_KNV * grad, None, None, None


def _log_total(logits: Tensor, prob: Tensor) -> Tensor:
    """logsumexp over the vocabulary, a column."""
    return logits.amax(-1, keepdim=True) - prob.amax(-1, keepdim=True).log()
