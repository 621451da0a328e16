"""ItemTrie: the item space as one structure, with three uses: decoding, validity, collaborative reward.

Items are sorted by their token path and nodes are numbered breadth-first, so the children of a node are one
slice of nodes and the items below a node are one slice of `order`. Everything else is look-ups in flat tensors.

Shapes: N positions, C children, I items, R rows of probabilities, D depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ilrec_cli.trie_paths import are_offsets, nodes_of, padded

# Below this mass, a difference of cumulative sums has too few correct digits: its absolute error is about 1e-13.
HEAVY_PREFIX = 1e-2
# Items that one exact-sum slice may touch: bounds memory, not the result.
EXACT_SUM_ITEMS = 4_000_000


class ItemTrie:
    """A prefix tree over item token paths. Node 0 is the root; build one with `ItemTrie.build`.

    Nodes, tokens, items and rows are tensors of any integer type (arrays and lists will do); results are tensors on
    the trie's device.

    >>> trie = ItemTrie.build([[5, 7, 2], [5, 8, 2], [6, 2]])
    >>> trie.step(torch.tensor([0, 0]), torch.tensor([5, 9])).tolist()
    [1, -1]
    >>> trie.children(torch.tensor([1]))[0].tolist()
    [[7, 8]]
    """

    order: Tensor  # items sorted by path

    def __init__(self, tensors: dict[str, Tensor], max_depth: int):
        self.max_depth = max_depth
        self.order = tensors["order"]
        self._token = tensors["token"]  # token that leads into each node; -1 at the root
        self._lo, self._hi = tensors["lo"], tensors["hi"]
        self._first, self._last = tensors["first"], tensors["last"]  # children of n: nodes first[n] .. last[n] - 1
        self._leaf = tensors["leaf"]  # leaf of each item; -1 where the item was left out by `restrict`
        self._key = tensors["key"]  # parent * base + token, ascending over nodes 1, 2, ...
        self._base = int(self._token.max()) + 1
        self._widest = int((self._last - self._first).max())
        self.leaves = int((self._first == self._last).sum())  # identifiers: items that share one count once
        self._used: Tensor | None = None

    @classmethod
    def build(cls, paths: Any, offsets: Any = None) -> ItemTrie:
        """Build from one token-id sequence per item, or from flat tokens and offsets (item i: flat[off[i]:off[i+1]]).

        The flat form is two arrays, given as two arguments or as a pair. Path i is item i's and includes the end
        token. Equal paths share a leaf. An empty path, a negative token, or a path that is a proper prefix of another
        raises `ValueError`.
        """
        if offsets is None and isinstance(paths, tuple) and len(paths) == 2 and are_offsets(*paths):
            paths, offsets = paths
        if offsets is None:
            rows = [np.asarray(path, dtype=np.int64).reshape(-1) for path in paths]
            offsets = np.cumsum([0, *map(len, rows)])
            paths = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)
        flat, offsets = np.asarray(paths, dtype=np.int64), np.asarray(offsets, dtype=np.int64)
        rows_ID = padded(flat, offsets)
        return cls(*nodes_of(rows_ID, np.arange(len(rows_ID))))

    def __len__(self) -> int:
        """Number of nodes, the root included."""
        return len(self._token)

    @property
    def items(self) -> int:
        """Number of items that the numbering covers, items left out by `restrict` included."""
        return len(self._leaf)

    def step(self, node_N: Tensor, token_N: Tensor) -> Tensor:
        """The child reached from each node by each token, -1 where the token continues no item."""
        node_N, token_N = self._index(node_N), self._index(token_N)  # a product of 32-bit numbers would overflow
        legal = (node_N >= 0) & (token_N >= 0) & (token_N < self._base)
        key = node_N * self._base + token_N
        place = torch.searchsorted(self._key, key).clamp(max=len(self._key) - 1)
        return torch.where(legal & (self._key[place] == key), place + 1, -1)

    def children(self, node_N: Tensor) -> tuple[Tensor, Tensor]:
        """(token_NC, node_NC) of every child, sorted by token and padded with -1; C is the largest count among N."""
        child_NC, real_NC = self._child_slots(node_N)
        # Slots without a child hold the root, whose token is -1. `index_select` is several times as fast as indexing.
        token_NC = self._token.index_select(0, child_NC.view(-1)).view_as(child_NC)
        return token_NC, child_NC.masked_fill_(~real_NC, -1)

    def tokens(self) -> Tensor:
        """Every token that occurs in a path, ascending."""
        if self._used is None:  # every search asks; to sort the tokens of all nodes each time was half of its look-ups
            self._used = torch.unique(self._token[1:])
        return self._used

    def range(self, node_N: Tensor) -> tuple[Tensor, Tensor]:
        """(lo_N, hi_N): the items below a node are `order[lo:hi]`; an empty range for -1."""
        node_N = self._index(node_N)
        inside = node_N >= 0
        return torch.where(inside, self._lo[node_N], 0), torch.where(inside, self._hi[node_N], 0)

    def is_leaf(self, node_N: Tensor) -> Tensor:
        """True where a node ends an item; -1 is no leaf."""
        node_N = self._index(node_N)
        return (node_N >= 0) & (self._first[node_N] == self._last[node_N])

    def is_settled(self, node_N: Tensor) -> Tensor:
        """True where a single leaf remains below a node (or is it); -1 is not settled."""
        lo_N, hi_N = self.range(node_N)
        return (hi_N > lo_N) & (self._leaf[self.order[lo_N]] == self._leaf[self.order[hi_N - 1]])

    def token_of(self, node_N: Tensor) -> Tensor:
        """The token that leads into each node; -1 for the root."""
        return self._token[self._index(node_N)]

    def parents(self) -> Tensor:
        """The parent of every node; -1 for the root."""
        return torch.cat([self._key.new_full((1,), -1), self._key // self._base])

    def leaf_of(self, item_I: Tensor) -> Tensor:
        """The leaf of each item; -1 where `restrict` left the item out, and for item -1."""
        item_I = self._index(item_I)
        return torch.where(item_I >= 0, self._leaf[item_I], -1)

    def to(self, device: torch.device | str) -> ItemTrie:
        """The same trie with its tensors on a device."""
        return ItemTrie({name: tensor.to(device) for name, tensor in self._tensors().items()}, self.max_depth)

    def restrict(self, items: Tensor | np.ndarray | Sequence[int]) -> ItemTrie:
        """A trie over some of the items. Items keep their numbers; nodes are numbered afresh."""
        items = items.cpu() if isinstance(items, Tensor) else items
        wanted = np.unique(np.asarray(items, dtype=np.int64))
        if len(wanted) == 0:
            raise ValueError("restrict: no item is left")
        if wanted[0] < 0 or wanted[-1] >= self.items:
            raise ValueError(f"restrict: items must lie in 0..{self.items - 1}, got {wanted[0]}..{wanted[-1]}")
        return ItemTrie(*nodes_of(self._paths(wanted), wanted, self.items)).to(self.order.device)

    def child_mass(
        self, node_N: Tensor, row_N: Tensor, prob_RI: Tensor, *, ordered: bool = False
    ) -> tuple[Tensor, Tensor]:
        """(token_NC, mass_NC): for every child v of each node, r_v of eq. 10 (ILRec), as float64.

        r_v is the probability of the items below v over that of the items below the node; row_N says which row of
        `prob_RI` each position uses. The masses of a node sum to 1, and a node of exactly zero mass shares by the
        number of items below each child. Padded with token -1 and mass 0. `ordered`: the columns of `prob_RI` already
        stand in the order of `order`.
        """
        node_N, row_N = self._index(node_N), self._index(row_N)
        # A GPU has room for the widest node of all: to learn how wide these are it would be waited for. (It is, below.)
        child_NC, real_NC = self._child_slots(node_N, self._widest if node_N.is_cuda else None)
        prob_RI = torch.as_tensor(prob_RI, device=self.order.device)
        prob_RI = (prob_RI if ordered else prob_RI.index_select(1, self.order)).double()
        cumulative = prob_RI.new_empty(len(prob_RI), prob_RI.shape[1] + 1)
        cumulative[:, 0] = 0
        torch.cumsum(prob_RI, 1, out=cumulative[:, 1:])
        # A node's children are neighbours: one ends where the next begins, and slots without a child are empty.
        inner_N1 = real_NC.any(1, keepdim=True)
        stop_N1 = self._hi[node_N][:, None]
        start_N1 = torch.where(inner_N1, self._lo[node_N][:, None], stop_N1)
        edge_NE = torch.cat([start_N1, torch.where(real_NC, self._hi[child_NC], stop_N1)], 1)
        offset_N1 = row_N[:, None] * cumulative.shape[1]
        mass_NC = cumulative.take(offset_N1 + edge_NE).diff(dim=1).clamp_(min=0.0)
        node_mass_N = (cumulative.take(offset_N1 + stop_N1) - cumulative.take(offset_N1 + start_N1)).squeeze(1)
        # Waits for the device: how many there are decides shapes, here and in the sums.
        light = ((node_mass_N <= HEAVY_PREFIX * cumulative[row_N, -1]) & inner_N1.squeeze(1)).nonzero().squeeze(1)
        if len(light):
            mass_NC[light] = self._exact_mass(child_NC[light], real_NC[light], row_N[light], prob_RI)
        token_NC = torch.where(real_NC, self._token[child_NC], -1)
        return token_NC, mass_NC.div_(mass_NC.sum(1, keepdim=True).clamp_(min=torch.finfo(torch.float64).tiny))

    def _exact_mass(self, child_NC: Tensor, real_NC: Tensor, row_N: Tensor, prob_RI: Tensor) -> Tensor:
        """Masses of children of light nodes, each summed item by item; item counts where the whole node has none.

        Scaled by each node's largest probability, so that denormal probabilities keep their ratios.
        """
        mass_NC = torch.zeros(child_NC.shape, dtype=torch.float64, device=child_NC.device)
        lo_NC, hi_NC = self._lo[child_NC], self._hi[child_NC]
        count_NC = (hi_NC - lo_NC).masked_fill(~real_NC, 0)
        for part in _slices_by_size(count_NC.sum(1), EXACT_SUM_ITEMS):
            count, columns = count_NC[part], count_NC.shape[1]
            slot = torch.repeat_interleave(torch.arange(count.numel(), device=count.device), count.flatten())
            before = count.flatten().cumsum(0) - count.flatten()
            place = torch.arange(len(slot), device=slot.device) - before[slot] + lo_NC[part].flatten()[slot]
            value = prob_RI[row_N[part][slot // columns], place]
            peak = torch.zeros(len(count), dtype=torch.float64, device=count.device)
            peak.scatter_reduce_(0, slot // columns, value, "amax")
            scale = torch.where(peak > 0, peak, 1.0)
            sums = torch.zeros(count.numel(), dtype=torch.float64, device=count.device)
            sums.index_add_(0, slot, value / scale[slot // columns])
            mass_NC[part] = torch.where((peak > 0)[:, None], sums.view_as(count), count.double())
        return mass_NC

    def _child_slots(self, node_N: Tensor, width: int | None = None) -> tuple[Tensor, Tensor]:
        """(child_NC, real_NC): child nodes and which of the slots are real; other slots hold node 0."""
        node_N = self._index(node_N)
        first, last = self._first[node_N], self._last[node_N]
        count = torch.where(node_N >= 0, last - first, 0)
        if width is None:
            width = int(count.max()) if len(count) else 0
        column = torch.arange(width, device=node_N.device)
        real = column < count[:, None]
        return (first[:, None] + column).masked_fill_(~real, 0), real

    def _index(self, values: Any) -> Tensor:
        return torch.as_tensor(values, dtype=torch.long, device=self.order.device)

    def _tensors(self) -> dict[str, Tensor]:
        return {
            "order": self.order, "token": self._token, "lo": self._lo, "hi": self._hi,
            "first": self._first, "last": self._last, "leaf": self._leaf, "key": self._key,
        }  # fmt: skip

    def _paths(self, items: np.ndarray) -> np.ndarray:
        """Padded paths of some items, read back from their leaves."""
        parent = np.concatenate([[-1], self._key.cpu().numpy() // self._base])
        token, node = self._token.cpu().numpy(), self._leaf.cpu().numpy()[items]
        if (node < 0).any():
            raise ValueError(f"restrict: item {items[node < 0][0]} is not in this trie")
        columns = []
        while (node > 0).any():
            columns.append(np.where(node > 0, token[node], -1))
            node = np.where(node > 0, parent[node], 0)
        backwards = np.stack(columns[::-1], axis=1)
        left = (backwards == -1).sum(1)  # shorter paths are right-aligned here: shift them to the left
        column = np.arange(backwards.shape[1]) + left[:, None]
        inside = column < backwards.shape[1]
        return np.where(inside, np.take_along_axis(backwards, np.where(inside, column, 0), 1), -1)


def _slices_by_size(size_N: Tensor, limit: int) -> list[slice]:
    """Consecutive slices of about `limit` in total size each (more only where a single one is larger)."""
    group_N = (size_N.cumsum(0) - size_N) // limit
    bounds = [0, *((group_N[1:] != group_N[:-1]).nonzero().flatten() + 1).tolist(), len(size_N)]
    return [slice(start, end) for start, end in pairwise(bounds)]
