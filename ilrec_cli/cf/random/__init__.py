"""Random: items in an order that depends on nothing but the history and a seed. A sanity row, not a baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from ilrec_cli.settings._base import at_least, at_most

SANITY = True
TRAINED = False
SEQUENTIAL = False
PRESETS: dict[str, dict[str, Any]] = {}


@dataclass(frozen=True, kw_only=True)
class Config:
    seed: Annotated[int, "another seed, another order"] = 0

    def __post_init__(self) -> None:
        at_least(self, 0, "seed")
        at_most(self, 2**31 - 1, "seed")
