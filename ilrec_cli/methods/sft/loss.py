"""Cross-entropy. Shapes: N supervised positions, V vocabulary."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ilrec_cli.lm.terms import Terms
from ilrec_cli.methods.sft import Config


def make_loss(config: Config) -> object:
    """The loss of this configuration; it uses the final layer alone."""

    def loss(final_NV: Tensor, inner_KNV: Tensor, target_N: Tensor, **rewards: Tensor | None) -> Terms:
        return sft_terms(final_NV, target_N)

    return loss


def sft_terms(final_NV: Tensor, target_N: Tensor) -> Terms:
    """Sum of -log softmax(P^L)_y over the positions (eq. 1)."""
    ce = F.cross_entropy(final_NV, target_N, reduction="sum")
    return Terms({"ce": (ce, ce.new_full((), len(target_N)))})
