"""The figures by which identifiers are judged: uniqueness, use of codes, shape of the tree, purity of prefixes.

Shapes: I items, D the longest path, G prefixes of a depth, Q queries, N neighbours, R random assignments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ilrec_cli.ids._assignment import prefixes

BLOCK = 1 << 26  # distances that exist at a time
VERSION = 1  # of quality.json
NEIGHBOURS = 10


class Interval(NamedTuple):
    """A share among items with a common prefix; the mean and 95 % of it under random assignments of the same sizes."""

    share: float
    control: float
    low: float
    high: float


def uniqueness(path_ID: np.ndarray) -> dict[str, Any]:
    """How many paths and prefixes there are, and how many items share one with others."""
    groups = prefixes(path_ID)
    size_G = np.bincount(groups[-1])
    there_DI = path_ID.T >= 0
    return {
        "items": len(path_ID),
        "distinct_paths": len(size_G),
        "colliding_items": int(size_G[size_G > 1].sum()),
        "largest_group": int(size_G.max()),
        "collision_rate": 1 - len(size_G) / len(path_ID),
        "codes_per_level": [len(np.unique(code_I[code_I >= 0])) for code_I in path_ID.T],
        "prefixes_per_depth": [
            len(np.unique(group_I[there])) for group_I, there in zip(groups[1:], there_DI, strict=True)
        ],
    }


def shared(path_ID: np.ndarray) -> np.ndarray:
    """True for items that share their path."""
    group_I = prefixes(path_ID)[-1]
    return np.asarray(np.bincount(group_I)[group_I] > 1)


def levels(path_ID: np.ndarray, sizes: Sequence[int | None]) -> list[dict[str, Any]]:
    """For every level: codes there are and codes used, entropy as a share of the largest, and e to the entropy."""
    found = []
    for level, code_I in enumerate(path_ID.T):
        count = np.unique(code_I[code_I >= 0], return_counts=True)[1]
        size = sizes[level] if level < len(sizes) else None
        part = count / count.sum()
        entropy = float(-(part * np.log(part)).sum())
        most = np.log(size or len(count))
        found.append({
            "codes": size, "used": len(count), "usage": len(count) / size if size else None,
            "entropy": entropy / float(most) if most else 1.0, "perplexity": float(np.exp(entropy)),
        })  # fmt: skip
    return found


def branching(path_ID: np.ndarray) -> list[dict[str, Any]]:
    """For every depth: inner nodes of the tree, and how many children they have."""
    groups, found = prefixes(path_ID), []
    for depth, code_I in enumerate(path_ID.T):
        there = code_I >= 0
        first = np.unique(groups[depth + 1][there], return_index=True)[1]
        children = np.unique(groups[depth][there][first], return_counts=True)[1]
        found.append(
            {"nodes": len(children), "mean_children": float(children.mean()), "most_children": int(children.max())}
        )
    return found


def purity(
    path_ID: np.ndarray, attributes: dict[str, np.ndarray], vectors_ID: np.ndarray | None
) -> list[dict[str, Any]]:
    """Do items that share a prefix share more than chance would have it? A row per depth and attribute.

    Attributes are numbers (-1: not known): the share of pairs of items of one prefix that agree. With vectors:
    "neighbours", the share of an item's 10 nearest others that have its prefix (for 2,000 items, of a million 500).
    """
    rng = np.random.default_rng(0)
    near_QN = None if vectors_ID is None or len(vectors_ID) < 3 else nearest(vectors_ID, rng)
    groups, found = prefixes(path_ID), []
    for depth, (group_I, code_I) in enumerate(zip(groups[1:], path_ID.T, strict=True), start=1):
        group_I = np.where(code_I >= 0, group_I, -1)
        inside_I = _with_company(group_I)
        if not inside_I.any():
            break
        for name, value_I in attributes.items():
            chosen = _with_company(np.where(value_I >= 0, group_I, -1))
            if chosen.any():
                found.append({"depth": depth, "of": name, **_pairs_agree(group_I, value_I, chosen, rng)._asdict()})
        if near_QN is not None:
            found.append({"depth": depth, "of": "neighbours", **_neighbours_agree(group_I, *near_QN, rng)._asdict()})
    return found


def nearest(vectors_ID: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(query_Q, near_QN): for items drawn at random, or all where there are few, the nearest others by distance."""
    items = len(vectors_ID)
    query_Q = np.sort(rng.permutation(items)[: int(np.clip(200_000_000 // items, 500, 2000))])
    vectors_ID = vectors_ID.astype(np.float32)
    half_norm_I = 0.5 * (vectors_ID**2).sum(1)
    count = min(NEIGHBOURS, items - 1)
    parts = []
    for query in np.array_split(query_Q, -(-len(query_Q) * items // BLOCK)):
        cost_QI = half_norm_I - vectors_ID[query] @ vectors_ID.T
        cost_QI[np.arange(len(query)), query] = np.inf
        parts.append(np.argpartition(cost_QI, count - 1, axis=1)[:, :count])
    return query_Q, np.concatenate(parts)


def _with_company(group_I: np.ndarray) -> np.ndarray:
    """True for items whose group (not -1) has another item."""
    return np.asarray((group_I >= 0) & (np.bincount(group_I + 1)[group_I + 1] > 1))


def _pairs_agree(group_I: np.ndarray, value_I: np.ndarray, chosen: np.ndarray, rng: np.random.Generator) -> Interval:
    """Of the pairs of items in one group that both have a value, the share that agrees."""
    group = group_I[chosen]
    value_M = np.unique(value_I[value_I >= 0], return_inverse=True)[1]  # of all items: what could have stood there
    base = int(value_M.max()) + 1
    pairs = _pairs(group)

    def share(value: np.ndarray) -> float:
        return _pairs(group * base + value) / pairs

    inside_M = chosen[value_I >= 0]
    return _against_chance(
        share(value_M[inside_M]), lambda: share(rng.permutation(value_M)[: len(group)]), len(value_M)
    )


def _neighbours_agree(
    group_I: np.ndarray, query_Q: np.ndarray, near_QN: np.ndarray, rng: np.random.Generator
) -> Interval:
    def share(group_I: np.ndarray) -> float:
        own_Q1 = group_I[query_Q][:, None]
        return float(((group_I[near_QN] == own_Q1) & (own_Q1 >= 0)).mean())

    return _against_chance(share(group_I), lambda: share(rng.permutation(group_I)), len(group_I))


def _against_chance(share: float, draw: Callable[[], float], items: int) -> Interval:
    """Beside 200 random assignments, or fewer for very large catalogues (at least 40)."""
    share_R = np.array([draw() for _ in range(int(np.clip(20_000_000 // items, 40, 200)))])
    return Interval(share, float(share_R.mean()), *np.quantile(share_R, [0.025, 0.975]).tolist())


def _pairs(key_M: np.ndarray) -> float:
    """Pairs of items with equal keys."""
    count = np.unique(key_M, return_counts=True)[1].astype(np.float64)
    return float((count * (count - 1) / 2).sum())
