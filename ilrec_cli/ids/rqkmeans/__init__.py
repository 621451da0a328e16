"""Residual k-means over item vectors: each level clusters what the levels before left over.

Residual quantisation with k-means codebooks, as used for semantic IDs by OneRec and others (arXiv 2502.18965). With
`balanced`, no code of a level gets more than its share of the items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

QUANTISES = True
PRESETS: dict[str, dict[str, Any]] = {}


@dataclass(frozen=True, kw_only=True)
class Config:
    levels: Annotated[int, "codes per item"] = 3
    codes: Annotated[
        int, "codes per level; 0: a power of two near twice the square root of the items, at most 1024"
    ] = 0
    iterations: Annotated[int, "of k-means, at each level"] = 25
    balanced: Annotated[bool, "no code of a level gets more than its share of the items, rounded up"] = False

    def __post_init__(self) -> None:
        if not 1 <= self.levels <= 20 or self.codes < 0 or self.iterations < 1:
            raise ValueError("needs levels in 1..20, codes >= 0 (0: automatic) and iterations >= 1")
