"""Popularity: every user gets the items that occur most often in the training data. A sanity row, not a baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SANITY = True
TRAINED = False
SEQUENTIAL = False
PRESETS: dict[str, dict[str, Any]] = {}


@dataclass(frozen=True, kw_only=True)
class Config:
    pass
