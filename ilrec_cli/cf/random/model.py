"""Scores are a hash of (seed, history, item). Shapes: B rows, T history items, I items."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ilrec_cli.cf._common import Batch, Facts, most_recent
from ilrec_cli.cf.random import Config

GAMMA = -7046029254386353131  # 0x9E3779B97F4A7C15 and the factors below as signed integers
ROUNDS = ((30, -4658895280553007687), (27, -7723592293110705685))


class Model(nn.Module):
    item_I: Tensor

    def __init__(self, config: Config, facts: Facts):
        super().__init__()
        self.max_history = facts.max_history
        seed = mix(torch.tensor(config.seed))
        self.register_buffer("item_I", mix(torch.arange(facts.items) ^ seed))

    def loss(self, batch: Batch) -> Tensor:
        raise TypeError("random is drawn, not trained")

    def scores(self, history_BT: Tensor, user_B: Tensor | None = None) -> Tensor:
        """scores_BI, uniform in [0, 1): the same for the same recent items, in any batch and on any device."""
        history_BT, _ = most_recent(history_BT, self.max_history)
        key_B = torch.zeros(len(history_BT), dtype=torch.int64, device=history_BT.device)
        for item_B in history_BT.unbind(1):
            key_B = torch.where(item_B >= 0, mix(key_B ^ (item_B + 1)), key_B)
        bits_BI = mix(key_B[:, None] ^ self.item_I) >> 40 & 0xFFFFFF  # as many as float32 holds exactly
        return bits_BI.float() / (1 << 24)

    def item_embeddings(self) -> None:
        return None


def mix(bits: Tensor) -> Tensor:
    """A bijection of 64-bit integers in which every bit depends on every other: SplitMix64 (G. Steele et al., 2014)."""
    bits = bits + GAMMA
    for shift, factor in ROUNDS:
        bits = _fold(bits, shift) * factor
    return _fold(bits, 31)


def _fold(bits: Tensor, shift: int) -> Tensor:
    """Exclusive or with itself shifted to the right, zeros shifted in."""
    return bits ^ (bits >> shift & (1 << 64 - shift) - 1)
