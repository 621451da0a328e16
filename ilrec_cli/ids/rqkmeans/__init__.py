"""Residual k-means over item-text vectors: each level clusters what the levels before left over; paths are unique.

Residual quantisation with k-means codebooks, as used for semantic IDs by OneRec and others (arXiv 2502.18965).
Items of one prefix that would share a path are given distinct last codes at the least total distance (the assignment
problem, solved exactly); where a prefix has more items than codes, a suffix level tells them apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

NEEDS_VECTORS = True


@dataclass(frozen=True, kw_only=True)
class Config:
    levels: Annotated[int, "codes per item"] = 3
    codes: Annotated[
        int, "codes per level; 0: a power of two near twice the square root of the items, at most 1024"
    ] = 0
    iterations: Annotated[int, "of k-means, at each level"] = 25

    def __post_init__(self) -> None:
        if not 1 <= self.levels <= 20 or self.codes < 0 or self.iterations < 1:
            raise ValueError("needs levels in 1..20, codes >= 0 (0: automatic) and iterations >= 1")
