"""A made-up hobby shop: taste clusters, popularity and sequential dependence, with readable titles; needs no files.

For demonstrations and smoke tests. What it is made of is drawn from the seed: every user has one or two hobbies;
the next item follows from the last one (the next thing one buys for that hobby, often of the same brand), or is
drawn from the hobby by popularity, or from the whole shop.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

DEFAULTS = {"user_k": 5, "item_k": 5, "repeats": "first"}
EXPECTS = "no file: the data are generated"
GENERATED = True


@dataclass(frozen=True, kw_only=True)
class Config:
    users: Annotated[int, "users to draw; a few are too short for the 5-core"] = 1500
    follow: Annotated[float, "probability that the next item follows from the last one"] = 0.6
    taste: Annotated[
        float, "probability that it is drawn from the user's hobbies; the rest comes from the whole shop"
    ] = 0.3
    seed: Annotated[int, "seed of the world"] = 0

    def __post_init__(self) -> None:
        if self.users < 1 or min(self.follow, self.taste) < 0 or self.follow + self.taste > 1:
            raise ValueError("needs users >= 1, follow >= 0, taste >= 0 and follow + taste <= 1")


def detect(folder: Path) -> bool:
    """Never by content: it is asked for by name."""
    return False
