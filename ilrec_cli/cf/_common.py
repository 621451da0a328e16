"""What collaborative models share: the facts they are built from and the batch they train on.

Shapes: B rows, T history items, I items, W rows that are encoded. Item -1 is padding, always on the right.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
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


def most_recent(history_BT: Tensor, max_history: int) -> tuple[Tensor, Tensor]:
    """The last `max_history` items of each row, and their number; at least one column, if only of padding."""
    if history_BT.shape[1] == 0:
        history_BT = F.pad(history_BT, (0, 1), value=-1)
    length_B = (history_BT >= 0).sum(1)
    if history_BT.shape[1] <= max_history:
        return history_BT, length_B
    kept_B = length_B.clamp(max=max_history)
    column = torch.arange(max_history, device=history_BT.device)
    return history_BT.gather(1, (length_B - kept_B)[:, None] + column), kept_B  # shorter rows keep their padding


def append(item_BT: Tensor, next_B: Tensor) -> Tensor:
    """Rows that are one longer: the given item after each row's last."""
    length_B1 = (item_BT >= 0).sum(1, keepdim=True)
    return F.pad(item_BT, (0, 1), value=-1).scatter(1, length_B1, next_B[:, None])


def whole_windows(batch: Batch) -> tuple[Tensor, Tensor]:
    """(item_BS, asked_BS): windows with their last item, and which of their places are training interactions.

    Those are the targets, and the first item where the second is a target: nothing comes before it to predict it from, but
    it was interacted with. A window's context was a target of the window before.
    """
    asked_BT = batch.target_BT >= 0
    last_B1 = (batch.item_BT >= 0).sum(1, keepdim=True) - 1
    item_BS = append(batch.item_BT, batch.target_BT.gather(1, last_B1).squeeze(1))
    return item_BS, torch.cat([asked_BT[:, :1], asked_BT], dim=1)


def at_last(hidden_BTD: Tensor, length_B: Tensor) -> Tensor:
    """hidden_BD at the last real place of each row; zeros where a row is empty."""
    last_B11 = (length_B - 1).clamp(min=0)[:, None, None]
    hidden_BD = hidden_BTD.gather(1, last_B11.expand(-1, 1, hidden_BTD.shape[2])).squeeze(1)
    return hidden_BD.masked_fill((length_B == 0)[:, None], 0.0)


def after_each(encode: Callable[[Tensor], Tensor], history_BT: Tensor, length_B: Tensor) -> Tensor:
    """hidden_BD after the last item of each row, by an encoder whose places do not look ahead.

    Rows that the next one continues by an item, as the histories of one user's successive targets do, are read off the
    longest of them: on a CPU encoding costs as much as all the rest of scoring. A GPU has to wait to learn how many
    rows are left, and encodes them all.
    """
    if history_BT.device.type != "cpu" or len(history_BT) < 2:
        return at_last(encode(history_BT), length_B)
    before_BT, after_BT = history_BT[:-1], history_BT[1:]
    continued_B = ((before_BT == after_BT) | (before_BT < 0)).all(1) & (length_B[1:] == length_B[:-1] + 1)
    longest_B = F.pad(~continued_B, (0, 1), value=True)
    row_B = longest_B.cumsum(0) - longest_B.long()
    hidden_WTD = encode(history_BT[longest_B])
    place_B = row_B * hidden_WTD.shape[1] + (length_B - 1).clamp(min=0)
    return hidden_WTD.flatten(0, 1).index_select(0, place_B).masked_fill((length_B == 0)[:, None], 0.0)


def at_targets(hidden_BTD: Tensor, target_BT: Tensor) -> tuple[Tensor, Tensor]:
    """(hidden_ND, target_N) of the supervised places, row by row."""
    place_N = (target_BT >= 0).flatten().nonzero().squeeze(1)
    return hidden_BTD.flatten(0, 1).index_select(0, place_N), target_BT.flatten().index_select(0, place_N)


def make_batch(sequences: Sequences, windows: Windows, device: torch.device) -> Batch:
    """Inputs are each window without its last item, targets the items that follow from `first` on."""
    item_BT = gather_runs(sequences.items, windows.start, windows.lengths - 1)
    target_BT = gather_runs(sequences.items, windows.start + 1, windows.lengths - 1)
    context = np.arange(item_BT.shape[1]) < (windows.first - windows.start - 1)[:, None]
    user_B = np.searchsorted(sequences.offsets, windows.start, side="right") - 1
    parts = (item_BT, np.where(context, -1, target_BT), user_B)
    return Batch(*(torch.from_numpy(part).to(device) for part in parts))
