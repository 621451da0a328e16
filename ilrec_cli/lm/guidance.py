"""A collaborative model's say in every step of the search: D3's decoding, arXiv 2406.14900.

Shapes: B prompts, K beams, C children of a node, T history items, I items, N beams of all prompts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ilrec_cli.lm.decode import RowScores
from ilrec_cli.trie import ItemTrie

FLOOR = 1e-20  # of a probability, as in D3: what the model thinks impossible stays possible


class Guide:
    """A step's score is a * log p_LM + (1 - a) * log p_CF; p_CF of a token is the mass of the items below it.

    The masses of a node's children sum to 1: they are the rewards of ILRec's eq. 10. `weight` is a; 1 leaves the language
    model alone, 0 follows the collaborative model.
    """

    def __init__(self, scorer: Any, weight: float):
        self.scorer, self.weight = scorer, weight

    @torch.inference_mode()
    def over(self, trie: ItemTrie, history_BT: Tensor, user_B: Tensor | None = None) -> RowScores:
        """The step scores of these prompts, whose histories are scored once, here."""
        prob_BI = self.scorer.scores(history_BT, user_B).index_select(1, trie.order).softmax(1, dtype=torch.float64)
        return _Mixed(trie, prob_BI, self.weight)


class _Mixed(RowScores):
    """prob_BI: every item's probability by the collaborative model, in the trie's order."""

    def __init__(self, trie: ItemTrie, prob_BI: Tensor, weight: float):
        self.trie, self.prob_BI, self.weight = trie, prob_BI, weight

    def __call__(self, node_BK: Tensor, token_BKC: Tensor, log_prob_BKC: Tensor) -> Tensor:
        row_N = torch.arange(len(node_BK), device=node_BK.device).repeat_interleave(node_BK.shape[1])
        _, mass_NC = self.trie.child_mass(node_BK.flatten(), row_N, self.prob_BI, ordered=True)
        mass_BKC = mass_NC[:, : token_BKC.shape[2]].view_as(log_prob_BKC)  # a GPU leaves room for the widest node
        mixed_BKC = self.weight * log_prob_BKC.double() + (1 - self.weight) * mass_BKC.clamp(min=FLOOR).log()
        return mixed_BKC.to(log_prob_BKC.dtype)

    def rows(self, row_B: Tensor) -> _Mixed:
        return _Mixed(self.trie, self.prob_BI[row_B], self.weight)
