"""What the log says about the negatives and the soft labels, as (sum, count), so that chunks and processes add up.

Whatever needs the vocabulary is a count over a mask that exists already; the rest looks at the C tokens that continue
an item. Nothing here waits for the device. Shapes: N supervised positions, V vocabulary, C children of a trie node.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ilrec_cli.lm.terms import Pair
from ilrec_cli.methods.ilrec import Config


class Found(NamedTuple):
    """What the loss found at the supervised positions; without gradient."""

    final_NV: Tensor  # P^L
    negative_NV: Tensor  # V_N, a mask
    weight_NV: Tensor  # w of eq. 6
    target_N: Tensor


@torch.no_grad()
def statistics(found: Found, token_NC: Tensor | None, reward_NC: Tensor | None, config: Config) -> dict[str, Pair]:
    """Every statistic of docs/method.md but those of layers, which the model adds on steps that are logged."""
    dtype = found.final_NV.dtype
    stats = _negatives(found)
    if token_NC is not None:
        near = _Neighbours(found, token_NC)
        stats["sibling_penalty"] = near.penalty()
        if reward_NC is not None:
            stats |= _soft_labels(found, near, reward_NC.to(dtype), config)
    return {name: (total.to(dtype), count.to(dtype)) for name, (total, count) in stats.items()}


def _negatives(found: Found) -> dict[str, Pair]:
    """How many there are, positions without any, and those whose logit is below zero (which eq. 7 rewards)."""
    negative_NV = found.negative_NV
    total, positions = negative_NV.count_nonzero(), found.final_NV.new_full((), len(found.target_N))
    some = (found.weight_NV.sum(1) > 0).sum()  # weights add up to 1, or to 0 without negatives
    return {
        "negatives": (total, positions),
        "no_negatives": (positions - some, positions),
        "negative_logits": ((negative_NV & (found.final_NV < 0)).count_nonzero(), total),
    }


class _Neighbours:
    """The tokens that continue an item at each position: y and its siblings in the trie."""

    def __init__(self, found: Found, token_NC: Tensor):
        self.weight_NV = found.weight_NV
        self.token_NC = token_NC.clamp(min=0)
        self.real_NC = token_NC >= 0
        self.is_target_NC = self.real_NC & (token_NC == found.target_N[:, None])
        self.negative_NC = self.real_NC & found.negative_NV.gather(1, self.token_NC)

    def penalty(self) -> Pair:
        """Share of the penalty that falls on siblings of y, where there are negatives and an item's tokens."""
        weight_NC = self.weight_NV.gather(1, self.token_NC) * self.negative_NC
        total_N = self.weight_NV.sum(1) * self.real_NC.any(1)  # 1, or 0 without negatives
        return weight_NC.sum(), total_N.sum()


def _soft_labels(found: Found, near: _Neighbours, reward_NC: Tensor, config: Config) -> dict[str, Pair]:
    """s_y and H of eq. 11, and how many negatives the collaborative model prefers to the target."""
    has_N = near.real_NC.any(1)
    own_N1 = (reward_NC * near.is_target_NC).sum(1, keepdim=True)
    others_N = (reward_NC.exp() * near.negative_NC).sum(1)
    if config.crr_scope == "all":  # negatives that continue no item have the reward 0, so exp gives 1 for each
        others_N = others_N + found.negative_NV.sum(1) - near.negative_NC.sum(1)
    own_N = own_N1.exp().squeeze(1)
    return {
        "target_label": ((own_N / (own_N + others_N) * has_N).sum(), has_N.sum()),
        "target_alone": ((has_N & (others_N == 0)).sum(), has_N.sum()),
        "liked_negatives": ((near.negative_NC & (reward_NC > own_N1)).sum(), near.negative_NC.sum()),
    }
