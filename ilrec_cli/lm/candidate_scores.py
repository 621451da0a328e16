"""Log-probabilities of each row's own candidates: the prompt is run once, the candidates behind it as one tree.

Shapes: B prompts, S prompt tokens, C candidates, D path tokens, W nodes of the widest tree, U scope tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ilrec_cli.lm.logits import Logits
from ilrec_cli.lm.tree import open_prompts

CELLS = 1 << 26  # of the attention masks of trees run together: bounds memory, not the result
FLOATS = 1 << 24  # of hidden states that meet their tokens at a time


class Trees(NamedTuple):
    """Candidates as trees of the tokens that the model is fed: all but the last of each path, common beginnings once.

    Columns are ordered by depth, alike in all rows; a row with fewer nodes at some depth has idle ones.
    """

    token_BW: np.ndarray
    depth_W: np.ndarray
    parent_BW: np.ndarray  # column of the node before; -1: the prompt
    owner_BCD: np.ndarray  # the state before each token of each path: 0 the prompt's, else 1 + column; -1: no token
    used_BW: np.ndarray  # False: idle


def trees(path_BCD: np.ndarray) -> Trees:
    """Each row's candidates as a tree; paths are padded with -1, and none is the beginning of another in its row."""
    order_BC = np.lexsort(path_BCD.transpose(2, 0, 1)[::-1], axis=-1)
    sorted_BCD = np.take_along_axis(path_BCD, order_BC[:, :, None], 1)
    new_BCD = np.ones_like(sorted_BCD, dtype=bool)
    np.maximum.accumulate(sorted_BCD[:, 1:] != sorted_BCD[:, :-1], axis=2, out=new_BCD[:, 1:])
    fed_BCD = np.arange(path_BCD.shape[2]) < (sorted_BCD >= 0).sum(2, keepdims=True) - 1
    new_BCD &= fed_BCD
    width_D = new_BCD.sum(1).max(0)
    column_BCD = np.cumsum(width_D) - width_D + np.cumsum(new_BCD, 1) - 1
    depth_W = np.repeat(np.arange(len(width_D)), width_D)
    token_BW = np.zeros((len(path_BCD), len(depth_W)), dtype=np.int64)
    used_BW, parent_BW = np.zeros_like(token_BW, dtype=bool), np.full_like(token_BW, -1)
    row_K, place_K, depth_K = np.nonzero(new_BCD)
    column_K = column_BCD[row_K, place_K, depth_K]
    token_BW[row_K, column_K], used_BW[row_K, column_K] = sorted_BCD[row_K, place_K, depth_K], True
    parent_BW[row_K, column_K] = np.where(depth_K > 0, column_BCD[row_K, place_K, depth_K - 1], -1)
    owner_BCD = np.concatenate([np.zeros_like(column_BCD[:, :, :1]), column_BCD[:, :, :-1] + 1], 2)
    np.put_along_axis(owner_BCD, order_BC[:, :, None], owner_BCD.copy(), 1)
    return Trees(token_BW, depth_W, parent_BW, np.where(path_BCD >= 0, owner_BCD, -1), used_BW)


@torch.inference_mode()
def candidate_scores(
    model: Any, input_ids_BS: Tensor, attention_mask_BS: Tensor, path_BCD: np.ndarray, *, scope_U: Tensor | None = None
) -> Tensor:
    """score_BC: the sum of the log-probabilities of each path's tokens after its row's prompt (padded on the left).

    Probabilities sum to one over the vocabulary, or over the tokens of `scope_U` (ascending).
    """
    width = trees(path_BCD).token_BW.shape[1]
    size = max(CELLS // max(width * (input_ids_BS.shape[1] + width), 1), 1)
    logits = Logits(model)
    parts = []
    for start in range(0, len(path_BCD), size):
        rows = slice(start, start + size)
        longest = int(attention_mask_BS[rows].sum(1).max())
        prompts = input_ids_BS[rows, -longest:], attention_mask_BS[rows, -longest:]
        parts.append(_scores(model, logits, prompts, path_BCD[rows], scope_U))
    return torch.cat(parts)


def _scores(
    model: Any, logits: Logits, prompts: tuple[Tensor, Tensor], path_BCD: np.ndarray, scope_U: Tensor | None
) -> Tensor:
    tree, device = trees(path_BCD), prompts[0].device
    hidden_BUD, used_BU = _states(model, prompts, tree)
    used_ND = hidden_BUD[used_BU]
    norm_N = logits.logsumexp(used_ND) if scope_U is None else logits.rows(used_ND, scope_U).logsumexp(1)
    norm_BU = torch.zeros(used_BU.shape, device=device).masked_scatter_(used_BU, norm_N)
    row_K, place_K, depth_K = (torch.from_numpy(each).to(device) for each in np.nonzero(path_BCD >= 0))
    owner_K = torch.from_numpy(tree.owner_BCD).to(device)[row_K, place_K, depth_K]
    token_K = torch.from_numpy(path_BCD).to(device)[row_K, place_K, depth_K]
    logit_K = torch.cat([logits.pairs(hidden_BUD[row, owner], token)
                         for row, owner, token in _parts(row_K, owner_K, token_K, FLOATS // hidden_BUD.shape[2])])  # fmt: skip
    log_prob_K = (logit_K - norm_BU[row_K, owner_K]).double()
    score = torch.zeros(path_BCD.shape[0] * path_BCD.shape[1], dtype=torch.float64, device=device)
    score.index_add_(0, row_K * path_BCD.shape[1] + place_K, log_prob_K)
    return score.view(path_BCD.shape[:2]).float()


def _states(model: Any, prompts: tuple[Tensor, Tensor], tree: Trees) -> tuple[Tensor, Tensor]:
    """(hidden_BUD, used_BU): the state after each prompt, then those after the nodes of its tree; which are not idle."""
    device, width = prompts[0].device, tree.token_BW.shape[1]
    opened = open_prompts(model, *prompts, width)
    token_BW, parent_BW, used_BW = (
        torch.from_numpy(each).to(device) for each in (tree.token_BW, tree.parent_BW, tree.used_BW)
    )
    used_BU = torch.nn.functional.pad(used_BW, (1, 0), value=True)
    if not width:
        return opened.last_BD[:, None], used_BU
    ancestors_BWW = torch.eye(width, dtype=torch.bool, device=device).repeat(len(token_BW), 1, 1)
    depth_W = torch.from_numpy(tree.depth_W).to(device)
    for depth in range(1, int(tree.depth_W[-1]) + 1):
        column = np.flatnonzero(tree.depth_W == depth)
        level = slice(int(column[0]), int(column[-1]) + 1)
        parent = parent_BW[:, level]
        above = ancestors_BWW.gather(1, parent.clamp(min=0)[:, :, None].expand(-1, -1, width))
        ancestors_BWW[:, level] |= above & (parent >= 0)[:, :, None]
    hidden_BWD = opened.branches(token_BW, depth_W, ancestors_BWW)
    return torch.cat([opened.last_BD[:, None], hidden_BWD], 1), used_BU


def _parts(row_K: Tensor, owner_K: Tensor, token_K: Tensor, size: int) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(torch.split(each, max(size, 1)) for each in (row_K, owner_K, token_K)), strict=True)
