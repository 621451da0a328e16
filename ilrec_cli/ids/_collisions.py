"""Paths that items share, told apart: distinct last codes, then free leaves elsewhere, then a suffix.

Inside a prefix the items get distinct last codes at the least total squared distance: the assignment problem, solved
exactly (LC-Rec's rounds of Sinkhorn approximate it). A prefix with more items than codes keeps those that cost least;
each of the others goes down the tree, nearest prefixes first, and takes the nearest free leaf below the first that has
one: first below other last-but-one codes, then further away. Only where no leaf of the tree is free does a level of
suffixes tell items apart. Items are taken in the order of their keys, so the order in which they stand does not matter;
of items with one vector the first by key has the lowest last code. Fixed items never move.

Shapes: I items, L levels, D dimensions, K codes of the last level, J of the last but one, M members of a prefix.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from ilrec_cli.ids._assignment import prefixes, runs
from ilrec_cli.ids._quantise import as_bytes

Prefix = tuple[int, ...]


class Space(NamedTuple):
    """Items in the space that the codebooks quantise, in float64 where distances decide."""

    latent_ID: np.ndarray
    codebook_LKD: list[np.ndarray]

    def residual(self, code_IL: np.ndarray, item_M: np.ndarray, levels: int) -> np.ndarray:
        """What the first `levels` codes of some items leave over."""
        left_MD = self.latent_ID[item_M].astype(np.float64)
        for level in range(levels):
            left_MD -= self.codebook_LKD[level][code_IL[item_M, level]]
        return left_MD

    def error(self, code_IL: np.ndarray) -> dict[str, float]:
        """Mean squared distance of the items to what their codes stand for; and as a share of the items' variance."""
        error = float(self.squared_error(code_IL).mean())
        spread = float(self.latent_ID.var(axis=0, dtype=np.float64).sum())
        return {"error": error, "relative": error / spread if spread else 0.0}

    def squared_error(self, code_IL: np.ndarray) -> np.ndarray:
        """Squared distance of every item to what its codes stand for, a block of items at a time."""
        levels = len(self.codebook_LKD)
        parts = [self.residual(code_IL, item_M, levels) for item_M in np.array_split(np.arange(len(code_IL)), 64)]
        return np.concatenate([(part_MD**2).sum(1) for part_MD in parts])


def resolve(
    code_IL: np.ndarray, space: Space, key_I: np.ndarray, fixed_I: np.ndarray | None = None
) -> tuple[np.ndarray, dict[str, Any]]:
    """(codes, what it took): paths without collisions at little cost; fixed items keep theirs.

    Codes are [I, L], or [I, L + 1] with a suffix where no leaf was left (-1: none). `key_I` ranks the items.
    """
    fixed_I = np.zeros(len(code_IL), dtype=bool) if fixed_I is None else fixed_I
    settled_IL = code_IL.copy()
    left_M = _within_prefixes(settled_IL, space, key_I, fixed_I)
    within = int((settled_IL != code_IL).any(1).sum())
    homeless_M = _elsewhere(settled_IL, left_M, space, key_I)
    moved_I = (settled_IL != code_IL).any(1)
    notes = {
        "moved_within_prefix": within,
        "moved_elsewhere": int(moved_I.sum()) - within,
        **_cost(code_IL, settled_IL, space, moved_I, ~fixed_I),
    }
    if len(homeless_M):
        settled_IL = suffixed(settled_IL, key_I)
    notes["with_suffix"] = int((settled_IL[:, code_IL.shape[1] :] >= 0).sum())
    return settled_IL, notes


def suffixed(path_ID: np.ndarray, key_I: np.ndarray) -> np.ndarray:
    """The paths with one more code, in the order of the keys, for all items of a path that several have (-1: others)."""
    group_I = prefixes(path_ID)[-1]
    order = np.lexsort((key_I, group_I))
    start_G = np.flatnonzero(np.diff(group_I[order], prepend=-1))
    number_I = np.empty(len(path_ID), dtype=np.int64)
    number_I[order] = np.arange(len(path_ID)) - start_G[group_I[order]]
    shared_I = np.bincount(group_I)[group_I] > 1
    return np.column_stack([path_ID, np.where(shared_I, number_I, -1)])


def free_last_codes(path_ID: np.ndarray, key_I: np.ndarray) -> np.ndarray:
    """Resolution without vectors: the first item of a path keeps it, the others get unused last codes of the prefix.

    Lowest codes first, of those that occur last in paths of that length. Where there are none left, a suffix.
    """
    path_ID = path_ID.copy()
    lengths = (path_ID >= 0).sum(1)
    for length in np.unique(lengths):
        chosen = np.flatnonzero(lengths == length)
        codes = np.unique(path_ID[chosen, length - 1])
        for member_M in runs(prefixes(path_ID[chosen, : length - 1])[-1], key_I[chosen]):
            items = chosen[member_M]
            last_M = path_ID[items, length - 1]
            again_M = np.ones(len(items), dtype=bool)
            again_M[np.unique(last_M, return_index=True)[1]] = False
            free = np.setdiff1d(codes, last_M)[: again_M.sum()]
            path_ID[items[again_M][: len(free)], length - 1] = free
    return path_ID


def _within_prefixes(code_IL: np.ndarray, space: Space, key_I: np.ndarray, fixed_I: np.ndarray) -> np.ndarray:
    """Distinct last codes (in place) below every prefix that holds a collision; the items that found no room."""
    *_, prefix_I, leaf_I = prefixes(code_IL)
    shared_I = (np.bincount(leaf_I)[leaf_I] > 1) & ~fixed_I
    touched = np.flatnonzero(np.isin(prefix_I, prefix_I[shared_I]))
    codebook_KD = space.codebook_LKD[-1].astype(np.float64)
    left = [np.zeros(0, dtype=np.int64)]
    for run_M in runs(prefix_I[touched], key_I[touched]):
        member_M = touched[run_M]
        mover_M = member_M[~fixed_I[member_M]]
        free_K = np.setdiff1d(np.arange(len(codebook_KD)), code_IL[member_M[fixed_I[member_M]], -1])
        residual_MD = space.residual(code_IL, mover_M, code_IL.shape[1] - 1)
        row, column = linear_sum_assignment(_squared_distances(residual_MD, codebook_KD[free_K]))
        code_M = np.full(len(mover_M), len(codebook_KD))  # no code, behind all others
        code_M[row] = free_K[column]
        # Between items with one vector the last bits of their distances decided; now their keys do.
        for alike in runs(np.unique(as_bytes(space.latent_ID[mover_M]), return_inverse=True)[1].ravel()):
            code_M[alike] = np.sort(code_M[alike])
        placed_M = code_M < len(codebook_KD)
        code_IL[mover_M[placed_M], -1] = code_M[placed_M]
        left.append(mover_M[~placed_M])
    return np.concatenate(left)


def _squared_distances(point_MD: np.ndarray, codebook_KD: np.ndarray) -> np.ndarray:
    """[M, K], up to a constant per point, which no choice of codes depends on."""
    return (codebook_KD**2).sum(1) - 2 * point_MD @ codebook_KD.T


def _elsewhere(code_IL: np.ndarray, left_M: np.ndarray, space: Space, key_I: np.ndarray) -> np.ndarray:
    """A free leaf (in place) for each of these items, the nearest of the nearest prefix that has one; those without."""
    levels = code_IL.shape[1]
    if levels == 1 or not len(left_M):
        return left_M
    leaves = _Leaves(np.delete(code_IL, left_M, axis=0), space.codebook_LKD)
    first_J = space.codebook_LKD[-2].astype(np.float64)
    second_K = space.codebook_LKD[-1].astype(np.float64)
    norm_JK = (first_J**2).sum(1)[:, None] + (second_K**2).sum(1) + 2 * first_J @ second_K.T
    homeless = [np.zeros(0, dtype=np.int64)]
    for item_M in _alike(left_M, space, key_I):  # items with one vector take as many leaves as they are, at once
        for prefix in leaves.nearest_prefixes(space.latent_ID[item_M[0]]):
            if not len(item_M) or not leaves.free:
                break
            residual_D = space.latent_ID[item_M[0]] - leaves.centre(prefix)
            cost_JK = norm_JK - 2 * ((first_J @ residual_D)[:, None] + second_K @ residual_D)
            found_M = leaves.take(prefix, cost_JK, len(item_M))
            placed_M, item_M = np.split(item_M, [len(found_M)])
            code_IL[placed_M, :-2] = prefix
            code_IL[placed_M, -2], code_IL[placed_M, -1] = np.divmod(found_M, len(second_K))
        homeless.append(item_M)
    return np.concatenate(homeless)


def _alike(item_M: np.ndarray, space: Space, key_I: np.ndarray) -> list[np.ndarray]:
    """Items by vector: those with the same one together, by key; groups by their first key."""
    item_M = item_M[np.argsort(key_I[item_M])]
    _, group_M = np.unique(space.latent_ID[item_M], axis=0, return_inverse=True)
    return sorted((item_M[run] for run in runs(group_M.ravel())), key=lambda items: int(key_I[items[0]]))


class _Leaves:
    """Which leaves of the tree are taken: a matrix of the last two codes for every prefix before them."""

    def __init__(self, code_NL: np.ndarray, codebook_LKD: list[np.ndarray]):
        self._codebook_LKD = codebook_LKD
        self._shape = (len(codebook_LKD[-2]), len(codebook_LKD[-1]))
        groups = prefixes(code_NL)
        self.free = prod(map(len, codebook_LKD)) - len(np.unique(groups[-1]))
        self._rows = {tuple(map(int, code_NL[run[0], :-2])): code_NL[run, -2:] for run in runs(groups[-3])}
        self._taken: dict[Prefix, np.ndarray] = {}

    def nearest_prefixes(self, latent_D: np.ndarray, prefix: Prefix = ()) -> Iterator[Prefix]:
        """Every prefix of L - 2 codes, the nearest code of each level first."""
        if len(prefix) == len(self._codebook_LKD) - 2:
            yield prefix
            return
        codebook_KD = self._codebook_LKD[len(prefix)].astype(np.float64)
        cost_K = _squared_distances((latent_D - self.centre(prefix))[None], codebook_KD)[0]
        for code in np.argsort(cost_K, kind="stable"):
            yield from self.nearest_prefixes(latent_D, (*prefix, int(code)))

    def centre(self, prefix: Prefix) -> Any:
        """What the codes of a prefix stand for (0 for none)."""
        return sum(
            codebook_KD[code].astype(np.float64) for codebook_KD, code in zip(self._codebook_LKD, prefix, strict=False)
        )

    def take(self, prefix: Prefix, cost_JK: np.ndarray, count: int) -> np.ndarray:
        """The `count` cheapest free leaves below a prefix, or as many as there are; they are taken then."""
        if prefix not in self._taken:
            self._taken[prefix] = np.zeros(self._shape, dtype=bool)
            if prefix in self._rows:
                self._taken[prefix][tuple(self._rows[prefix].T)] = True
        taken_JK = self._taken[prefix]
        cost = np.where(taken_JK, np.inf, cost_JK).ravel()
        count = min(count, int((~taken_JK).sum()))
        found = np.array([cost.argmin()]) if count == 1 else np.argsort(cost, kind="stable")[:count]
        taken_JK.ravel()[found] = True
        self.free -= count
        return found


def _cost(
    code_IL: np.ndarray, settled_IL: np.ndarray, space: Space, moved_I: np.ndarray, counted_I: np.ndarray
) -> dict[str, float]:
    """Mean squared error of all items and of the moved ones, before and after."""
    before_I, after_I = space.squared_error(code_IL), space.squared_error(settled_IL)
    return {
        f"{who}_{when}": float(error_I[chosen].mean()) if chosen.any() else 0.0
        for who, chosen in (("error", counted_I), ("error_of_moved", moved_I))
        for when, error_I in (("before", before_I), ("after", after_I))
    }
