"""Residual k-means with faiss. Shapes: I items, D dimensions, K codes of a level, W items that wait for one."""

from __future__ import annotations

import numpy as np

from ilrec_cli.errors import UserError
from ilrec_cli.ids import rqkmeans
from ilrec_cli.ids._quantise import BLOCK, Job, Quantised, automatic_codes, canonical_order, greedy

RECENTRED = 2  # times that centroids move to the means of their balanced members


def fit(vectors_ID: np.ndarray, config: rqkmeans.Config, rng: np.random.Generator, job: Job) -> Quantised:
    """Codebooks of `levels` levels; the order of the items does not matter."""
    order = canonical_order(vectors_ID)
    residual_ID = np.asarray(vectors_ID, dtype=np.float32)[order]
    size = min(config.codes or automatic_codes(len(vectors_ID), 1024), len(vectors_ID))
    code_IL = np.empty((len(vectors_ID), config.levels), dtype=np.int64)
    codebooks = []
    for level in job.console.progress(range(config.levels), "residual k-means"):
        codebook_KD = _kmeans(residual_ID, size, config.iterations, int(rng.integers(2**31)))
        if config.balanced:
            codebook_KD, code_I = _balanced_kmeans(residual_ID, codebook_KD)
            residual_ID -= codebook_KD[code_I]
        else:
            code_IL1, residual_ID = greedy(residual_ID, [codebook_KD])
            code_I = code_IL1[:, 0]
        code_IL[order, level] = code_I
        codebooks.append(codebook_KD)
    return Quantised(code_IL, np.asarray(vectors_ID, dtype=np.float32), codebooks, {}, {})


def latent(vectors_ID: np.ndarray, weights: dict[str, np.ndarray], config: rqkmeans.Config) -> np.ndarray:
    """The vectors themselves are what is quantised."""
    return np.asarray(vectors_ID, dtype=np.float32)


def balanced(point_ID: np.ndarray, codebook_KD: np.ndarray) -> np.ndarray:
    """A code for every item, none for more than its share (rounded up): a stable matching of items and codes.

    Every item asks for its nearest code, full codes keep their nearest items, the others ask again elsewhere. No item
    and code that are not matched are nearer to each other than to what both got. Ties go to the lower index.
    """
    capacity = -(-len(point_ID) // len(codebook_KD))
    code_I, cost_I = np.full(len(point_ID), -1), np.zeros(len(point_ID), dtype=np.float32)
    bound_K = np.full(len(codebook_KD), np.inf, dtype=np.float32)  # what a full code's farthest item costs
    waiting_W = np.arange(len(point_ID))
    while len(waiting_W):
        code_I[waiting_W], cost_I[waiting_W] = _nearest_open(point_ID[waiting_W], codebook_KD, bound_K)
        asked_K = np.zeros(len(codebook_KD), dtype=bool)
        asked_K[code_I[waiting_W]] = True
        there = np.flatnonzero((code_I >= 0) & asked_K[code_I])
        there = there[np.lexsort((cost_I[there], code_I[there]))]
        start = np.flatnonzero(np.diff(code_I[there], prepend=-1))
        place = np.arange(len(there)) - np.repeat(start, np.diff(start, append=len(there)))
        last = there[place == capacity - 1]
        bound_K[code_I[last]] = cost_I[last]
        waiting_W = np.sort(there[place >= capacity])
        code_I[waiting_W] = -1
    return code_I


def _nearest_open(point_WD: np.ndarray, codebook_KD: np.ndarray, bound_K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(code_W, cost_W): the nearest code that has room or would rather have this item than its farthest."""
    parts, size = [], max(1, BLOCK // len(codebook_KD))
    norm_K = (codebook_KD**2).sum(1)
    for start in range(0, len(point_WD), size):
        part_WD = point_WD[start : start + size]
        cost_WK = (part_WD**2).sum(1)[:, None] + norm_K - 2 * part_WD @ codebook_KD.T
        cost_WK[cost_WK >= bound_K] = np.inf
        code_W = cost_WK.argmin(1)
        parts.append((code_W, np.take_along_axis(cost_WK, code_W[:, None], 1)[:, 0]))
    codes, costs = zip(*parts, strict=True)
    return np.concatenate(codes), np.concatenate(costs)


def _balanced_kmeans(point_ID: np.ndarray, codebook_KD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(codebook, codes): centroids moved to the means of their balanced members, then a last balanced assignment."""
    for _ in range(RECENTRED):
        code_I = balanced(point_ID, codebook_KD)
        order = np.argsort(code_I, kind="stable")
        used, start = np.unique(code_I[order], return_index=True)
        total_KD = np.add.reduceat(point_ID[order], start, axis=0, dtype=np.float64)
        codebook_KD = codebook_KD.copy()
        codebook_KD[used] = total_KD / np.diff(start, append=len(order))[:, None]
    return codebook_KD, balanced(point_ID, codebook_KD)


def _kmeans(point_ID: np.ndarray, size: int, iterations: int, seed: int) -> np.ndarray:
    try:
        import faiss
    except ImportError as error:
        raise UserError("residual k-means needs faiss: pip install faiss-cpu") from error
    # Without these limits faiss trains on a sample of 256 points a centroid, and warns below 39.
    kmeans = faiss.Kmeans(point_ID.shape[1], size, niter=iterations, seed=seed,
                          max_points_per_centroid=len(point_ID), min_points_per_centroid=1)  # fmt: skip
    kmeans.train(point_ID)
    return np.array(kmeans.centroids)
