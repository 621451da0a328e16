"""The whole catalogue scored, not searched: every node of the trie is run once behind each prompt, part by part.

Shapes: B prompts, N nodes of the trie, W nodes of a part, E edges below them, D width, L leaves, U tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ilrec_cli.lm.logits import Logits
from ilrec_cli.lm.tree import open_prompts
from ilrec_cli.lm.walk import Normalize
from ilrec_cli.trie import ItemTrie

NODES = 4096  # run at a time, over all prompts: bounds memory, not the result
FLOATS = 1 << 24  # of hidden states of edges at a time


@torch.inference_mode()
def exact_scores(
    model: Any, input_ids_BS: Tensor, attention_mask_BS: Tensor, trie: ItemTrie, *,
    normalize: Normalize = "vocab", length_penalty: float = 0.0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(leaf_L, score_BL): every leaf, ascending, with the score that `beam_search` gives where it finds it.

    Nodes are run in depth-first order, so that a part holds whole subtrees and shares their prefixes.
    """
    device = input_ids_BS.device
    trie = trie if trie.order.device == device else trie.to(device)
    scorer = _Scorer(model, (input_ids_BS, attention_mask_BS), trie, normalize)
    size = max(NODES // len(input_ids_BS), 64)
    scorer.score(torch.zeros(1, dtype=torch.long, device=device))
    node_N = scorer.nodes_to_run()
    for start in range(0, len(node_N), size):  # there may be none, which torch.split would give as a part
        scorer.score(node_N[start : start + size])
    total_BN = scorer.edge_BN
    for start, end in scorer.levels[2:]:
        total_BN[:, start:end] += total_BN.index_select(1, scorer.parent_N[start:end])
    leaf_L = trie.is_leaf(torch.arange(len(trie), device=device)).nonzero()[:, 0]
    return leaf_L, total_BN.index_select(1, leaf_L) / scorer.depth_N[leaf_L] ** length_penalty


class _Scorer:
    """Log-probabilities of edges: `edge_BN` has, for each node, that of its token after its parent."""

    def __init__(self, model: Any, prompts: tuple[Tensor, Tensor], trie: ItemTrie, normalize: Normalize):
        self.trie, self.normalize = trie, normalize
        self.logits = Logits(model)
        self.prompts = open_prompts(model, *prompts, NODES // len(prompts[0]) + trie.max_depth)
        self.parent_N, self.token_U = trie.parents(), trie.tokens()
        self.levels = _levels(self.parent_N)
        self.depth_N = torch.zeros_like(self.parent_N)
        for depth, (start, end) in enumerate(self.levels):
            self.depth_N[start:end] = depth
        self.edge_BN = torch.zeros(len(prompts[0]), len(trie), device=self.parent_N.device)

    def nodes_to_run(self) -> Tensor:
        """The nodes whose children need the model, in depth-first order, without the root."""
        node_N = torch.arange(1, len(self.trie), device=self.parent_N.device)
        ready = self.trie.is_settled(node_N) if self.normalize == "trie" else self.trie.is_leaf(node_N)
        node_N = node_N[~ready]
        return node_N[(self.trie.range(node_N)[0] * (self.trie.max_depth + 1) + self.depth_N[node_N]).argsort()]

    def score(self, node_W: Tensor) -> None:
        """Fill in the edges below some nodes."""
        hidden_BWD = self._hidden(node_W)
        owner_E, child_E = self._edges(node_W)
        rows = len(hidden_BWD)
        step = max(FLOATS // (rows * hidden_BWD.shape[-1]), 1)
        token_E = self.trie.token_of(child_E)
        logit_BE = torch.cat([
            self.logits.pairs(hidden_BWD[:, owner].flatten(0, 1), token.repeat(rows)).view(rows, -1)
            for owner, token in zip(torch.split(owner_E, step), torch.split(token_E, step), strict=True)
        ], 1)  # fmt: skip
        if self.normalize == "trie":
            norm_BW = _segment_logsumexp(logit_BE, owner_E, len(node_W))
        else:
            flat = hidden_BWD.flatten(0, 1)
            whole = self.normalize == "vocab"
            norm = self.logits.logsumexp(flat) if whole else self.logits.rows(flat, self.token_U).logsumexp(1)
            norm_BW = norm.view(rows, -1)
        self.edge_BN[:, child_E] = logit_BE - norm_BW[:, owner_E]

    def _hidden(self, node_W: Tensor) -> Tensor:
        """hidden_BWD after each node's token, its ancestors being run with it."""
        if node_W[0] == 0:
            return self.prompts.last_BD[:, None]
        above, node = [], int(self.parent_N[node_W[0]])
        while node > 0:  # of the first only: in depth-first order the others' are among the nodes, or these
            above.append(node)
            node = int(self.parent_N[node])
        run_A = torch.cat([node_W.new_tensor(above), node_W]).sort().values
        place_A = torch.arange(len(run_A), device=run_A.device)
        ancestors_AA = torch.diag(torch.ones_like(place_A, dtype=torch.bool))
        up_A = run_A
        for _ in range(int(self.depth_N[run_A].max()) - 1):
            up_A = torch.where(up_A > 0, self.parent_N[up_A], 0)
            real = up_A > 0
            ancestors_AA[place_A[real], torch.searchsorted(run_A, up_A[real])] = True
        hidden_BAD = self.prompts.branches(self.trie.token_of(run_A), self.depth_N[run_A] - 1, ancestors_AA)
        return hidden_BAD[:, torch.searchsorted(run_A, node_W)]

    def _edges(self, node_W: Tensor) -> tuple[Tensor, Tensor]:
        """(owner_E, child_E): all children of the nodes, and which of the nodes each belongs to."""
        _, child_WC = self.trie.children(node_W)
        real = child_WC >= 0
        return real.nonzero()[:, 0], child_WC[real]


def _levels(parent_N: Tensor) -> list[tuple[int, int]]:
    """The nodes of each depth, from the root on, as (first, one beyond the last)."""
    bounds = [(0, 1)]
    while (end := bounds[-1][1]) < len(parent_N):
        bounds.append((end, int(torch.searchsorted(parent_N, end))))  # nodes are numbered breadth-first
    return bounds


def _segment_logsumexp(value_BE: Tensor, owner_E: Tensor, owners: int) -> Tensor:
    index_BE = owner_E.expand_as(value_BE)
    peak_BW = value_BE.new_full((len(value_BE), owners), -torch.inf).scatter_reduce(1, index_BE, value_BE, "amax")
    sum_BW = torch.zeros_like(peak_BW).index_add_(1, owner_E, (value_BE - peak_BW[:, owner_E]).exp())
    return peak_BW + sum_BW.log()
