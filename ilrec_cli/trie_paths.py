"""Token paths -> the nodes of an ItemTrie, breadth-first, as flat arrays.

Shapes: I items, D longest path.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def are_offsets(flat: object, offsets: object) -> bool:
    """Whether a pair can only be meant as flat tokens and offsets, and not as two paths."""
    arrays = all(isinstance(value, np.ndarray | Tensor) and value.ndim == 1 for value in (flat, offsets))
    return arrays and len(offsets) > 1 and int(offsets[0]) == 0 and int(offsets[-1]) == len(flat)  # type: ignore[index,arg-type]


def padded(flat: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Paths as one matrix [I, D], padded with -1."""
    lengths = np.diff(offsets)
    if len(lengths) == 0:
        raise ValueError("a trie needs at least one path")
    if offsets[0] != 0 or offsets[-1] != len(flat) or (lengths < 0).any():
        raise ValueError(f"offsets must rise from 0 to the {len(flat)} tokens there are")
    if (lengths == 0).any():
        raise ValueError(f"path of item {int(np.argmin(lengths))} is empty")
    if (flat < 0).any():
        item = int(np.searchsorted(offsets, np.argmax(flat < 0), side="right")) - 1
        raise ValueError(f"path of item {item} has a negative token")
    matrix_ID = np.full((len(lengths), int(lengths.max())), -1, dtype=np.int64)
    matrix_ID[np.arange(matrix_ID.shape[1]) < lengths[:, None]] = flat
    return matrix_ID


def nodes_of(paths: np.ndarray, items: np.ndarray, n_items: int | None = None) -> tuple[dict[str, Tensor], int]:
    """(an ItemTrie's tensors, its depth) from padded paths; row r belongs to item items[r] of n_items."""
    order = np.lexsort(paths.T[::-1])
    paths, items = paths[order], items[order]
    rows, depth = paths.shape
    differs = np.ones((rows, depth), dtype=bool)
    np.maximum.accumulate(paths[1:] != paths[:-1], axis=1, out=differs[1:])
    _refuse_prefixes(paths, differs, items)

    token, lo, hi, parent = [[-1]], [[0]], [[rows]], [[-1]]
    node_of_row, leaf = np.zeros(rows, dtype=np.int64), np.zeros(rows, dtype=np.int64)
    nodes = 1
    for level in range(depth):
        boundary = np.flatnonzero(differs[:, level])
        starts, ends = boundary, np.append(boundary[1:], rows)
        real = paths[starts, level] >= 0
        starts, ends = starts[real], ends[real]
        token.append(paths[starts, level])
        lo.append(starts)
        hi.append(ends)
        parent.append(node_of_row[starts])
        present = paths[:, level] >= 0
        node_of_row = np.where(present, nodes - 1 + np.cumsum(differs[:, level] & present), node_of_row)
        leaf = np.where(present, node_of_row, leaf)
        nodes += len(starts)
    tensors = {
        "order": items, "token": np.concatenate(token), "lo": np.concatenate(lo), "hi": np.concatenate(hi),
    }  # fmt: skip
    parents = np.concatenate(parent)[1:]
    tensors["first"] = np.searchsorted(parents, np.arange(nodes)) + 1
    tensors["last"] = np.searchsorted(parents, np.arange(nodes), side="right") + 1
    tensors["leaf"] = np.full(n_items or rows, -1)
    tensors["leaf"][items] = leaf
    tensors["key"] = parents * (tensors["token"].max() + 1) + tensors["token"][1:]
    return {name: torch.from_numpy(array.astype(np.int64)) for name, array in tensors.items()}, depth


def _refuse_prefixes(paths: np.ndarray, differs: np.ndarray, items: np.ndarray) -> None:
    """A path that is a proper prefix of another sorts right before one of its extensions."""
    length = (paths >= 0).sum(1)
    last = length[:-1] - 1
    extended = (length[1:] > length[:-1]) & ~differs[1:][np.arange(len(last)), last]
    if extended.any():
        row = int(np.argmax(extended))
        raise ValueError(f"path of item {items[row]} is a proper prefix of the path of item {items[row + 1]}")
