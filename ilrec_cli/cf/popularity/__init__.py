"""Popularity: every user gets the items that occur most often in the training data. A sanity row, not a baseline."""

from __future__ import annotations

from dataclasses import dataclass

SANITY = True
TRAINED = False
SEQUENTIAL = False


@dataclass(frozen=True, kw_only=True)
class Config:
    pass
