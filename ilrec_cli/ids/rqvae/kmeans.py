"""K-means that starts the codebooks: k-means++ and Lloyd's iterations, level by level on what is left over.

NumPy on one fixed order of points, so the same seed gives the same bits. Shapes: N points, D dimensions, K codes, L levels.
"""

from __future__ import annotations

import numpy as np

from ilrec_cli.ids._quantise import greedy

SAMPLE = 256  # points a code are enough; more are sampled


def codebooks(latent_ND: np.ndarray, levels: int, codes: int, iterations: int, rng: np.random.Generator) -> np.ndarray:
    """[L, K, D]: k-means of the latents, then of each level's residuals."""
    if len(latent_ND) > SAMPLE * codes:
        latent_ND = latent_ND[np.sort(rng.choice(len(latent_ND), SAMPLE * codes, replace=False))]
    found = []
    for _ in range(levels):
        codebook_KD = lloyd(latent_ND, plus_plus(latent_ND, codes, rng), iterations)
        latent_ND = greedy(latent_ND, [codebook_KD])[1]
        found.append(codebook_KD)
    return np.stack(found)


def plus_plus(point_ND: np.ndarray, codes: int, rng: np.random.Generator) -> np.ndarray:
    """[K, D] of the points, each drawn in proportion to its squared distance from those before (k-means++)."""
    point_ND = point_ND.astype(np.float64)
    distance_N = np.full(len(point_ND), np.inf)
    chosen = [int(rng.integers(len(point_ND)))]
    while len(chosen) < codes:
        distance_N = np.minimum(distance_N, ((point_ND - point_ND[chosen[-1]]) ** 2).sum(1))
        total_N = distance_N.cumsum()
        drawn = np.searchsorted(total_N, rng.random() * total_N[-1], side="right")
        chosen.append(min(int(drawn), len(point_ND) - 1))  # all distances 0: fewer different points than codes
    return point_ND[chosen].astype(np.float32)


def lloyd(point_ND: np.ndarray, centre_KD: np.ndarray, iterations: int) -> np.ndarray:
    """[K, D] after this many rounds; a centre without points moves to one of the points farthest from their own."""
    for _ in range(iterations):
        code_N, left_ND = greedy(point_ND, [centre_KD])
        moved_KD = means(point_ND, code_N[:, 0], centre_KD)
        empty = np.setdiff1d(np.arange(len(centre_KD)), code_N)[: len(point_ND)]
        if len(empty):
            moved_KD[empty] = point_ND[np.argsort(-(left_ND**2).sum(1), kind="stable")[: len(empty)]]
        if np.array_equal(moved_KD, centre_KD):
            break
        centre_KD = moved_KD
    return centre_KD


def means(point_ND: np.ndarray, code_N: np.ndarray, centre_KD: np.ndarray) -> np.ndarray:
    """[K, D]: mean of each code's points, summed in float64; a code without points keeps its centre."""
    order = np.argsort(code_N, kind="stable")
    present, start, count = np.unique(code_N[order], return_index=True, return_counts=True)
    total = np.add.reduceat(point_ND[order].astype(np.float64), start, axis=0)
    moved_KD = centre_KD.copy()
    moved_KD[present] = total / count[:, None]
    return moved_KD
