"""What collaborative models share: the facts they are built from and the batch they train on.

Shapes: B rows, T history items, I items. Item -1 is padding, always on the right.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ilrec_cli.histories import Sequences, Windows, gather_runs


class Facts(NamedTuple):
    """Of the training data: sizes, the longest history, and how often each item occurs."""

    users: int
    items: int
    max_history: int
    popularity_I: Tensor


class Batch(NamedTuple):
    """Windows of users' sequences: the item shown at each place and the one to predict there (-1: none)."""

    item_BT: Tensor
    target_BT: Tensor
    user_B: Tensor


class Scorer(Protocol):
    """A trained model: `scores(history_BT, user_B)` for all items, higher is better."""

    def scores(self, history_BT: Tensor, user_B: Tensor | None = None) -> Tensor: ...


def make_batch(sequences: Sequences, windows: Windows, device: torch.device) -> Batch:
    """Inputs are each window without its last item, targets the items that follow from `first` on."""
    item_BT = gather_runs(sequences.items, windows.start, windows.lengths - 1)
    target_BT = gather_runs(sequences.items, windows.start + 1, windows.lengths - 1)
    context = np.arange(item_BT.shape[1]) < (windows.first - windows.start - 1)[:, None]
    user_B = np.searchsorted(sequences.offsets, windows.start, side="right") - 1
    parts = (item_BT, np.where(context, -1, target_BT), user_B)
    return Batch(*(torch.from_numpy(part).to(device) for part in parts))
