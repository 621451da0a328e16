"""Residual k-means with faiss. Shapes: I items, D dimensions, K codes."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
from scipy.optimize import linear_sum_assignment

from ilrec_cli.errors import UserError
from ilrec_cli.ids import rqkmeans
from ilrec_cli.ids._assignment import Assignment, quality, token


def assign(
    items: pa.Table, vectors: np.ndarray | None, config: rqkmeans.Config, rng: np.random.Generator
) -> Assignment:
    """Unique paths of `levels` codes (a suffix more where a prefix is overfull)."""
    assert vectors is not None
    size = min(config.codes or automatic_codes(len(vectors)), len(vectors))
    residual_ID = np.ascontiguousarray(vectors, dtype=np.float32)
    codes, codebooks = [], {}
    for level in range(config.levels):
        centroid_KD, code_I = _kmeans(residual_ID, size, config.iterations, int(rng.integers(2**31)))
        codes.append(code_I)
        codebooks[f"level_{level}"] = centroid_KD
        last_residual_ID = residual_ID
        residual_ID = residual_ID - centroid_KD[code_I]
    code_IL = np.stack(codes, axis=1)
    before = quality(_tokens(code_IL.tolist()))
    resolved_I = resolve(code_IL, last_residual_ID, codebooks[f"level_{config.levels - 1}"])
    moved = resolved_I != code_IL[:, -1]
    code_IL[:, -1] = resolved_I
    paths = _with_suffix(code_IL)
    notes = {
        "codes": size,
        "collisions_before_resolution": before["colliding_items"],
        "items_moved": int(moved.sum()),
        "items_with_suffix": sum(len(path) > config.levels for path in paths),
        "mean_squared_error": float((residual_ID**2).sum(1).mean()),
    }
    return Assignment(paths, _tokens(paths), codebooks, notes)


def automatic_codes(items: int) -> int:
    """A power of two near twice the square root of the number of items, from 4 to 1024.

    >>> automatic_codes(9922)
    256
    """
    return int(min(1024, max(4, 2 ** round(math.log2(2 * math.sqrt(items))))))


def resolve(code_IL: np.ndarray, residual_ID: np.ndarray, centroid_KD: np.ndarray) -> np.ndarray:
    """Last codes that are distinct below each prefix where it has room, at the least total squared distance.

    Only prefixes with a collision are touched. One with more items than codes keeps its nearest codes.
    """
    last_I = code_IL[:, -1].copy()
    _, group_I = np.unique(code_IL[:, :-1], axis=0, return_inverse=True)
    order = np.argsort(group_I.ravel(), kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(group_I.ravel()[order])) + 1):
        collides = len(np.unique(last_I[members])) < len(members)
        if collides and len(members) <= len(centroid_KD):
            row, column = linear_sum_assignment(_squared_distances(residual_ID[members], centroid_KD))
            last_I[members[row]] = column
    return last_I


def _squared_distances(point_ND: np.ndarray, centroid_KD: np.ndarray) -> np.ndarray:
    """[N, K] in float64, up to a constant per point, which no assignment depends on."""
    point_ND, centroid_KD = point_ND.astype(np.float64), centroid_KD.astype(np.float64)
    return (centroid_KD**2).sum(1) - 2 * point_ND @ centroid_KD.T


def _kmeans(points_ID: np.ndarray, size: int, iterations: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    try:
        import faiss
    except ImportError as error:
        raise UserError("residual k-means needs faiss: pip install faiss-cpu") from error
    # Without these limits faiss trains on a sample of 256 points a centroid, and warns below 39.
    kmeans = faiss.Kmeans(points_ID.shape[1], size, niter=iterations, seed=seed,
                          max_points_per_centroid=len(points_ID), min_points_per_centroid=1)  # fmt: skip
    kmeans.train(points_ID)
    return kmeans.centroids.copy(), kmeans.assign(points_ID)[1].astype(np.int64)


def _with_suffix(code_IL: np.ndarray) -> list[list[int]]:
    """Paths, with a suffix code for all items of a path that more than one has."""
    paths = code_IL.tolist()
    _, group_I, count = np.unique(code_IL, axis=0, return_inverse=True, return_counts=True)
    used = np.zeros(len(count), dtype=np.int64)
    for item, group in enumerate(group_I.ravel()):
        if count[group] > 1:
            paths[item].append(int(used[group]))
            used[group] += 1
    return paths


def _tokens(paths: list[list[int]]) -> list[list[str]]:
    return [[token(level, code) for level, code in enumerate(path)] for path in paths]
