"""Top-k with one tie rule: among equal scores the lower index comes first, on every device and in every batch size."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

LISTED = 20  # items ranked for every event
MOST_BEAMS = 10_000  # of a search: what its beams see of one another grows with the square of their number
BLOCK = 64  # scores whose maximum is taken together


class UnorderedError(ValueError):
    """Scores hold NaN, which has no place in any order."""


class Rankings(NamedTuple):
    """For each event the best items, their scores, and the 0-based rank of its target (-1: not among them)."""

    item_Ek: np.ndarray
    score_Ek: np.ndarray
    rank_E: np.ndarray


def no_rankings() -> Rankings:
    """Of no event at all."""
    lists = np.zeros((0, LISTED), dtype=np.int64)
    return Rankings(lists, lists.astype(np.float32), np.zeros(0, dtype=np.int64))


def order_key(score: Tensor, index: Tensor) -> Tensor:
    """Integers that sort by float32 score, then by lower index (below 2**31). NaN has no place and raises."""
    if score.isnan().any():
        raise UnorderedError("scores hold NaN: the model's weights or number format are broken; nothing can be ranked")
    bits = (score.float() + 0.0).view(torch.int32).long()  # + 0.0 turns -0.0 into 0.0
    ordered = torch.where(bits >= 0, bits, bits ^ 0x7FFFFFFF)
    return (ordered << 32) - index


def top_k(score_BI: Tensor, k: int) -> Tensor:
    """index_Bk of the k largest scores of each row, best first, ties by lower index.

    >>> top_k(torch.tensor([[1.0, 3.0, 3.0, 2.0]]), 3).tolist()
    [[1, 2, 3]]
    """
    k = min(k, score_BI.shape[1])
    blocks = score_BI.shape[1] // BLOCK
    if blocks < 2 * k or not len(score_BI):
        column_I = torch.arange(score_BI.shape[1], device=score_BI.device)
        return order_key(score_BI, column_I).topk(k, dim=1).indices
    # The k largest of the blocks' maxima are k scores, so what is below the last of them is not among the best.
    best_BC = score_BI[:, : blocks * BLOCK].reshape(-1, blocks, BLOCK).amax(2)
    least_B1 = best_BC.topk(k, dim=1).values[:, -1:]
    column_BC = columns((score_BI < least_B1).logical_not_())  # NaN among them: it is smaller than nothing
    key_BC = order_key(score_BI.gather(1, column_BC.clamp(min=0)), column_BC)
    chosen_Bk = key_BC.masked_fill(column_BC < 0, torch.iinfo(torch.int64).min).topk(k, dim=1).indices
    return column_BC.gather(1, chosen_Bk)


def columns(chosen_BI: Tensor) -> Tensor:
    """column_BC of the chosen places of every row, in ascending order, padded with -1."""
    row_N, column_N = chosen_BI.nonzero(as_tuple=True)
    count_B = row_N.bincount(minlength=len(chosen_BI))
    place_N = torch.arange(len(row_N), device=row_N.device) - (count_B.cumsum(0) - count_B)[row_N]
    column_BC = row_N.new_full((len(chosen_BI), int(count_B.max())), -1)
    column_BC[row_N, place_N] = column_N
    return column_BC


def rank_in(list_Bk: Tensor, target_B: Tensor) -> Tensor:
    """0-based place of each target in its list, -1 where it is not in it."""
    hit_Bk = list_Bk == target_B[:, None]
    return torch.where(hit_Bk.any(1), hit_Bk.int().argmax(1), -1)
