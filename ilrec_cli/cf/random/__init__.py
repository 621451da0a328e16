"""Random: items in an order that depends on nothing but the history and a seed. A sanity row, not a baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

SANITY = True
TRAINED = False
SEQUENTIAL = False
PRESETS: dict[str, dict[str, Any]] = {}


@dataclass(frozen=True, kw_only=True)
class Config:
    seed: Annotated[int, "another seed, another order"] = 0
