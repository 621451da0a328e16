"""Cross-entropy, the loss of supervised fine-tuning and of what other methods start with. Shapes: N positions, V vocabulary."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from ilrec_cli.lm.terms import Terms


def make_loss(config: Any) -> object:
    """The loss, whatever the configuration; it uses the final layer alone."""

    def loss(final_NV: Tensor, inner_KNV: Tensor, target_N: Tensor, **rewards: Tensor | None) -> Terms:
        return sft_terms(final_NV, target_N)

    return loss


def sft_terms(final_NV: Tensor, target_N: Tensor) -> Terms:
    """Sum of -log softmax(P^L)_y over the positions (eq. 1)."""
    ce = F.cross_entropy(final_NV, target_N, reduction="sum")
    return Terms({"ce": (ce, ce.new_full((), len(target_N)))})
