"""What schemes that quantise vectors level by level share: the job they get and what they return.

Shapes: I items, D dimensions of what is quantised, L levels, K codes of a level.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ilrec_cli.console import Console

BLOCK = 1 << 24  # distances that exist at a time


class Quantised(NamedTuple):
    """Greedy codes of every item, before collisions are settled, and all that later items need."""

    code_IL: np.ndarray
    latent_ID: np.ndarray  # what the codebooks quantise: the vectors themselves, or an encoder's output (float32)
    codebook_LKD: list[np.ndarray]  # one [K, D] a level (float32)
    weights: dict[str, np.ndarray]  # of the map from vectors to latents, for later items; {} where they are the same
    notes: dict[str, Any]  # for quality.json


@dataclass(frozen=True)
class Job:
    """Where a long assignment reports, and where it may keep its place."""

    console: Console = Console(quiet=True)  # noqa: RUF009 - it cannot be changed
    device: torch.device = torch.device("cpu")  # noqa: RUF009
    checkpoints: Path | None = None  # a folder of its own; what is in it is the same job, to go on with
    log: Callable[[dict[str, Any]], None] = lambda row: None  # one row an epoch, for log.jsonl


def greedy(latent_ID: np.ndarray, codebook_LKD: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(code_IL, residual_ID): the nearest code of each level to what the levels before left over, ties to the lower.

    In float32, in blocks of items, so that memory does not grow with items times codes.
    """
    residual_ID = np.array(latent_ID, dtype=np.float32)
    code_IL = np.empty((len(residual_ID), len(codebook_LKD)), dtype=np.int64)
    for level, codebook_KD in enumerate(codebook_LKD):
        size = max(1, BLOCK // len(codebook_KD))
        half_norm_K = 0.5 * (codebook_KD**2).sum(1)
        for start in range(0, len(residual_ID), size):
            part = residual_ID[start : start + size]
            code_IL[start : start + size, level] = (part @ codebook_KD.T - half_norm_K).argmax(1)
        residual_ID -= codebook_KD[code_IL[:, level]]
    return code_IL, residual_ID


def canonical_order(vectors_ID: np.ndarray) -> np.ndarray:
    """An order of the items by their vectors alone, so that a fit does not depend on how they stand."""
    return np.argsort(as_bytes(vectors_ID), kind="stable")


def as_bytes(vectors_ID: np.ndarray) -> np.ndarray:
    """Every row as one value (of float32 numbers, with one zero) that sorts and compares faster than its numbers."""
    rows = np.ascontiguousarray(vectors_ID, dtype=np.float32) + np.float32(0)
    return rows.view(f"V{rows.itemsize * rows.shape[1]}").ravel()


def automatic_codes(items: int, most: int) -> int:
    """A power of two near twice the square root of the number of items, from 4 to `most`.

    >>> automatic_codes(3686, 256), automatic_codes(9922, 256)
    (128, 256)
    """
    return int(min(most, max(4, 2 ** round(math.log2(2 * math.sqrt(items))))))
