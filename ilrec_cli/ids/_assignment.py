"""What every ID scheme comes to: one path of codes and tokens per item, as flat arrays with offsets.

Shapes: I items, D the longest path. A matrix of paths is padded with -1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa


class Assignment(NamedTuple):
    """One path per item, in the order of the items: lists of codes, and of the tokens that stand for them."""

    codes: pa.ListArray  # of int32
    tokens: pa.ListArray  # of text
    notes: dict[str, Any]  # for quality.json
    text: bool = False  # tokens are text that a tokenizer splits further, not special tokens of their own


def token(level: int, code: int) -> str:
    """The special token of a code, in LC-Rec's spelling.

    >>> token(0, 17)
    '<a_17>'
    """
    return f"<{chr(ord('a') + level)}_{code}>"


def from_codes(code_ID: np.ndarray, notes: dict[str, Any]) -> Assignment:
    """The paths of a padded matrix of codes, with a token per level and code.

    >>> from_codes(np.array([[3, 1], [0, -1]]), {}).tokens.to_pylist()
    [['<a_3>', '<b_1>'], ['<a_0>']]
    """
    sizes = code_ID.max(0) + 1
    names = pa.array([token(level, code) for level, size in enumerate(sizes) for code in range(size)], pa.string())
    real_ID = code_ID >= 0
    flat = (code_ID + (np.cumsum(sizes) - sizes))[real_ID]
    offsets = pa.array(np.concatenate([[0], np.cumsum(real_ID.sum(1))]), pa.int32())
    codes = pa.ListArray.from_arrays(offsets, pa.array(code_ID[real_ID], pa.int32()))
    return Assignment(codes, pa.ListArray.from_arrays(offsets, names.take(pa.array(flat))), notes)


def to_matrix(lists: pa.ListArray) -> np.ndarray:
    """Lists of numbers or of text as a matrix padded with -1; equal text gets equal numbers, by first appearance.

    >>> to_matrix(pa.array([["x", "y"], ["y"]])).tolist()
    [[0, 1], [1, -1]]
    """
    values = lists.flatten()
    numbers = values if pa.types.is_integer(values.type) else values.dictionary_encode().indices
    length_I = np.diff(lists.offsets.to_numpy())
    matrix_ID = np.full((len(length_I), int(length_I.max(initial=0))), -1, dtype=np.int64)
    matrix_ID[np.arange(matrix_ID.shape[1]) < length_I[:, None]] = numbers.to_numpy(zero_copy_only=False)
    return matrix_ID


def prefixes(path_ID: np.ndarray) -> list[np.ndarray]:
    """For every depth 0..D the number of each item's prefix; equal numbers, equal prefixes. The last is the path's.

    Numbers are dense and in the order of the prefixes, so `max() + 1` counts them.
    """
    groups = [np.zeros(len(path_ID), dtype=np.int64)]
    for code_I in path_ID.T:
        key_I = groups[-1] * (int(code_I.max(initial=0)) + 2) + code_I + 1
        groups.append(np.unique(key_I, return_inverse=True)[1].astype(np.int64).ravel())
    return groups


def runs(group_I: np.ndarray, key_I: np.ndarray | None = None) -> list[np.ndarray]:
    """The members of every group, in the order of the groups; within one by key, or as they stand."""
    order = np.argsort(group_I, kind="stable") if key_I is None else np.lexsort((key_I, group_I))
    if not len(order):
        return []
    return np.split(order, np.flatnonzero(np.diff(group_I[order])) + 1)
