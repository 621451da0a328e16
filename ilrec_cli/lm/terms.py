"""What a loss returns: for every term and every statistic a (sum, count), so chunks, micro-batches and processes add up."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]  # sum and count, both 0-d
REWARDED = ("crr",)  # terms that only positions with collaborative rewards have; all others are of every position


@dataclass(frozen=True)
class Terms:
    """Loss terms (with gradient) and statistics (without), by name.

    `losses["cpo"]` is the sum of L_CPO over the supervised positions and their number. Counts are tokens, pairs or
    sequences, as the method says; they come from labels, never from losses.
    """

    losses: dict[str, Pair] = field(default_factory=dict)
    stats: dict[str, Pair] = field(default_factory=dict)

    def __add__(self, other: Terms) -> Terms:
        return Terms(_add(self.losses, other.losses), _add(self.stats, other.stats))

    def means(self) -> dict[str, float]:
        """Every term's and statistic's mean, for people; nothing where the count is zero. Synchronises the device."""
        pairs = {**self.losses, **self.stats}
        values = torch.stack([torch.stack([part.double() for part in pair]) for pair in pairs.values()]).tolist()
        return {name: total / count for name, (total, count) in zip(pairs, values, strict=True) if count}

    def detach(self) -> Terms:
        return Terms({name: (total.detach(), count) for name, (total, count) in self.losses.items()}, self.stats)

    @property
    def ce(self) -> Tensor:
        """Sum of plain cross-entropy."""
        return self.losses["ce"][0]

    @property
    def cpo(self) -> Tensor:
        """Sum of eq. 7."""
        return self.losses["cpo"][0]

    @property
    def cpd(self) -> Tensor:
        """Sum of eq. 8."""
        return self.losses["cpd"][0]

    @property
    def crr(self) -> Tensor:
        """Sum of eq. 11."""
        return self.losses["crr"][0]

    @property
    def tokens(self) -> int:
        """Supervised positions."""
        return int(self.losses["ce"][1])

    @property
    def crr_tokens(self) -> int:
        """Supervised positions that have collaborative rewards."""
        return int(self.losses["crr"][1])


def _add(left: dict[str, Pair], right: dict[str, Pair]) -> dict[str, Pair]:
    """Sums by name; a name that only one side has (a task without rows in the other) stands for itself."""
    both = {name: (left[name][0] + right[name][0], left[name][1] + right[name][1]) for name in left if name in right}
    return {**left, **right, **both}
