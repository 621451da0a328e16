"""Which items may be listed, row by row: the beam search passes over every branch in which none of them is left.

Lists are those of a search over `trie.restrict` of each row's items, without a trie for each row. Scores stay those of
the whole catalogue: what is hidden changes nobody else's probability, whatever the normalisation.

Shapes: B rows, I items, K beams, C children of a node, k listed items, W items below a row's leaves.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ilrec_cli.lm.decode import expand
from ilrec_cli.trie import ItemTrie


class Allowed:
    """The allowed items of every row (allowed_BI, by item number) over the trie that is searched."""

    def __init__(self, trie: ItemTrie, allowed_BI: Tensor):
        self.trie, self.allowed_BI = trie, allowed_BI
        left_BI = allowed_BI.index_select(1, trie.order).cumsum(1, dtype=torch.int32)
        self._before_BI = torch.nn.functional.pad(left_BI, (1, 0))  # allowed items before each place of `trie.order`

    def step_scores(self, node_BK: Tensor, token_BKC: Tensor, log_prob_BKC: Tensor) -> Tensor:
        """The scores of a step, -inf where no allowed item lies below a child."""
        child_BKC = self.trie.step(node_BK[:, :, None].expand_as(token_BKC), token_BKC)
        lo_BN, hi_BN = (bound.flatten(1) for bound in self.trie.range(child_BKC))
        left_BN = self._before_BI.gather(1, hi_BN) - self._before_BI.gather(1, lo_BN)
        return log_prob_BKC.masked_fill((left_BN == 0).view_as(log_prob_BKC), -torch.inf)

    def expand(self, leaf_BK: Tensor, priority_I: Tensor, k: int) -> Tensor:
        """The first k allowed items of each row of leaves, as `decode.expand` orders them: item_Bk, padded with -1."""
        lo_BK, hi_BK = self.trie.range(leaf_BK)
        width = max(k, int((hi_BK - lo_BK).sum(1).max()))
        item_BW = expand(leaf_BK, self.trie, priority_I, width)
        kept_BW = (item_BW >= 0) & self.allowed_BI.gather(1, item_BW.clamp(min=0))
        first_Bk = torch.argsort((~kept_BW).int(), dim=1, stable=True)[:, :k]
        return torch.where(kept_BW.gather(1, first_Bk), item_BW.gather(1, first_Bk), -1)
