"""Beam search over an ItemTrie: each prompt is run once, its beams are branches of one tree of tokens.

Only tokens that continue an item are ever candidates: each returned leaf is an item by construction.

Shapes: B prompts, S prompt tokens, K beams, C children of a node.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor

from ilrec_cli.lm.walk import Normalize, Walk, children
from ilrec_cli.ranking import order_key
from ilrec_cli.trie import ItemTrie

# (node_BK, token_BKC, log_prob_BKC) -> log_prob_BKC: mixes other evidence into a step's scores. Row b is prompt b.
StepScores = Callable[[Tensor, Tensor, Tensor], Tensor]


class RowScores(ABC):
    """Step scores that can go on with some of the prompts: the search may group them, and leave out those that are done."""

    @abstractmethod
    def __call__(self, node_BK: Tensor, token_BKC: Tensor, log_prob_BKC: Tensor) -> Tensor: ...

    @abstractmethod
    def rows(self, row_B: Tensor) -> RowScores:
        """Those of these prompts alone."""


GROUP = 16  # prompts of similar length that are searched together
WORTH_GROUPING = 0.1  # share of padding in the prompts


class Beams(NamedTuple):
    """Hypotheses of one depth, best first; node -1 and score -inf where there are fewer than K."""

    node_BK: Tensor
    score_BK: Tensor
    token_BK: Tensor
    parent_BK: Tensor


@torch.inference_mode()
def beam_search(
    model: Any,
    input_ids_BS: Tensor,
    attention_mask_BS: Tensor,
    trie: ItemTrie,
    *,
    beams: int,
    normalize: Normalize = "vocab",
    length_penalty: float = 0.0,
    step_scores: StepScores | None = None,
) -> tuple[Tensor, Tensor]:
    """The `beams` best leaves of each prompt: (leaf_BK, score_BK), best first, padded with -1 and -inf.

    A score is the sum of log-probabilities over the path, divided by (its length ** length_penalty).
    `normalize` says over what each step's probabilities sum to one: the whole vocabulary (as
    `transformers.generate` with a prefix function), the tokens that occur in any path, or the children of the node.
    Exactly equal scores are ordered by the lower leaf. Prompts are padded on the left. The checkpoint's own
    generation settings play no part. Hypotheses are kept as `generate` keeps them with `early_stopping=False`.
    """
    if beams < 1 or normalize not in get_args(Normalize):
        raise ValueError(
            f"beams {beams}, normalize '{normalize}': expected beams >= 1 and one of {get_args(Normalize)}"
        )
    device = input_ids_BS.device
    trie = trie if trie.order.device == device else trie.to(device)
    kept = min(beams, trie.leaves)  # there is nothing to find for more of them
    leaf_BK = torch.full((len(input_ids_BS), beams), -1, device=device)
    score_BK = torch.full((len(input_ids_BS), beams), -torch.inf, device=device)
    every_row = torch.arange(len(input_ids_BS), device=device)
    # Other step scores know prompts by their row alone, so with them all stay together.
    apart = step_scores is None or isinstance(step_scores, RowScores)
    for row_b in _by_length(attention_mask_BS) if apart else [every_row]:
        longest = int(attention_mask_BS[row_b].sum(1).max())
        prompts = input_ids_BS[row_b, -longest:], attention_mask_BS[row_b, -longest:]
        walk = Walk(model, prompts, trie, normalize, kept)
        steps = step_scores.rows(row_b) if isinstance(step_scores, RowScores) else step_scores
        leaf_BK[row_b, :kept], score_BK[row_b, :kept] = _search(walk, len(row_b), kept, length_penalty, steps)
    return leaf_BK, score_BK


def _search(
    walk: Walk, rows: int, beams: int, length_penalty: float, step_scores: StepScores | None
) -> tuple[Tensor, Tensor]:
    trie, device = walk.trie, walk.trie.order.device
    best_leaf = torch.full((rows, beams), -1, device=device)
    best_score = torch.full((rows, beams), -torch.inf, device=device)
    open_B1 = torch.ones(rows, 1, dtype=torch.bool, device=device)
    row_B = torch.arange(rows, device=device)  # prompts that go on
    node_BK, score_BK = best_leaf.new_zeros(rows, 1), best_score.new_zeros(rows, 1)
    for depth in range(1, trie.max_depth + 1):
        token_BKC, child_BKC = children(trie, node_BK)
        log_prob_BKC = walk.log_prob(token_BKC)
        if step_scores is not None:
            log_prob_BKC = step_scores(node_BK, token_BKC, log_prob_BKC)
        total_BKC = (score_BK[:, :, None] + log_prob_BKC).masked_fill(child_BKC < 0, -torch.inf)
        # 2K candidates, so that K can go on even if K of them end here; only the K best may end.
        candidates = _best_candidates(total_BKC, token_BKC, child_BKC, 2 * beams)
        ends = trie.is_leaf(candidates.node_BK)
        final = candidates.score_BK / depth**length_penalty
        final = final.masked_fill(~(ends & open_B1), -torch.inf)[:, :beams]
        found = _merge(best_leaf[row_B], best_score[row_B], candidates.node_BK[:, :beams], final)
        best_leaf[row_B], best_score[row_B] = found
        alive = _keep(candidates, ~ends, beams)
        open_B1 &= alive.score_BK[:, :1] / depth**length_penalty > found[1][:, -1:]
        alive = alive._replace(node_BK=torch.where(open_B1, alive.node_BK, -1))
        going_B = (alive.node_BK >= 0).any(1)
        if not going_B.any():
            break
        apart = step_scores is None or isinstance(step_scores, RowScores)
        if apart and 2 * going_B.sum() <= len(row_B):
            row_B, open_B1 = row_B[going_B], open_B1[going_B]
            alive = Beams(*(part[going_B] for part in alive))
            walk.select(going_B.nonzero()[:, 0])
            step_scores = step_scores.rows(going_B.nonzero()[:, 0]) if isinstance(step_scores, RowScores) else None
        node_BK, score_BK = alive.node_BK, alive.score_BK
        walk.advance(node_BK, alive.token_BK, alive.parent_BK)
    return best_leaf, best_score


def expand(leaf_BK: Tensor, trie: ItemTrie, priority_I: Tensor, k: int) -> Tensor:
    """The first k items of each row of leaves, in the leaves' order: item_Bk, padded with -1.

    Items that share a leaf (colliding identifiers) are ordered by higher `priority_I` (training popularity), then by
    lower item index.
    """
    leaf_BK, priority_I = leaf_BK.long(), torch.as_tensor(priority_I, device=leaf_BK.device)
    trie = trie if trie.order.device == leaf_BK.device else trie.to(leaf_BK.device)
    item_I = trie.order.sort().values
    item_I = item_I[priority_I[item_I].argsort(descending=True, stable=True)]
    leaf_I, place_I = trie.leaf_of(item_I).sort(stable=True)
    item_I = item_I[place_I]  # by leaf, then priority, then index
    first_BK = torch.searchsorted(leaf_I, leaf_BK.contiguous())
    count_BK = torch.searchsorted(leaf_I, leaf_BK.contiguous(), right=True) - first_BK
    count_BK = torch.where(leaf_BK >= 0, count_BK, 0)
    end_BK = count_BK.cumsum(1)
    rank_Bk = torch.arange(k, device=leaf_BK.device).expand(len(leaf_BK), k).contiguous()
    slot_Bk = torch.searchsorted(end_BK, rank_Bk, right=True)  # which leaf the rank falls on
    inside_Bk = slot_Bk < leaf_BK.shape[1]
    slot_Bk = slot_Bk.clamp(max=leaf_BK.shape[1] - 1)
    place_Bk = first_BK.gather(1, slot_Bk) + rank_Bk - (end_BK - count_BK).gather(1, slot_Bk)
    return torch.where(inside_Bk, item_I[torch.where(inside_Bk, place_Bk, 0)], -1)


def _by_length(mask_BS: Tensor) -> list[Tensor]:
    """Rows in groups of similar length where that saves much padding: on a CPU, time goes with the tokens."""
    length_B = mask_BS.sum(1)
    order_B = length_B.argsort(descending=True, stable=True)
    padding = 1 - length_B.sum().item() / mask_BS.numel()
    grouped = mask_BS.device.type == "cpu" and padding > WORTH_GROUPING
    return list(torch.split(order_B, GROUP)) if grouped else [order_B]


def _best_candidates(total_BKC: Tensor, token_BKC: Tensor, child_BKC: Tensor, keep: int) -> Beams:
    rows, _, children = total_BKC.shape
    total, token, child = (part.reshape(rows, -1) for part in (total_BKC, token_BKC, child_BKC))
    place = order_key(total, child).topk(min(keep, total.shape[1]), dim=1).indices
    score, node = total.gather(1, place), child.gather(1, place)
    node = torch.where(score > -torch.inf, node, -1)
    return Beams(node, score, token.gather(1, place).clamp(min=0), place // children)


def _keep(candidates: Beams, wanted: Tensor, beams: int) -> Beams:
    """The first `beams` of the wanted candidates, in their order."""
    wanted = wanted & (candidates.node_BK >= 0)
    place = torch.argsort((~wanted).int(), dim=1, stable=True)[:, :beams]
    node, score, token, parent = (part.gather(1, place) for part in candidates)
    real = wanted.gather(1, place)
    return Beams(torch.where(real, node, -1), torch.where(real, score, -torch.inf), token, parent)


def _merge(leaf_BK: Tensor, score_BK: Tensor, more_leaf: Tensor, more_score: Tensor) -> tuple[Tensor, Tensor]:
    """The best K of two lists of finished leaves."""
    leaf, score = torch.cat([leaf_BK, more_leaf], 1), torch.cat([score_BK, more_score], 1)
    place = order_key(score, leaf).topk(leaf_BK.shape[1], dim=1).indices
    leaf, score = leaf.gather(1, place), score.gather(1, place)
    return torch.where(score > -torch.inf, leaf, -1), score
