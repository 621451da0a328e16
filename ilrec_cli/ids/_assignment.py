"""What every ID scheme returns, and the figures by which identifiers are judged."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import numpy as np


class Assignment(NamedTuple):
    """One path per item: `codes` and the `tokens` that stand for them; `codebooks` by level where there are any."""

    codes: list[list[int]]
    tokens: list[list[str]]
    codebooks: dict[str, np.ndarray]
    notes: dict[str, Any]


def token(level: int, code: int) -> str:
    """The special token of a code, in LC-Rec's spelling.

    >>> token(0, 17)
    '<a_17>'
    """
    return f"<{chr(ord('a') + level)}_{code}>"


def quality(tokens: list[list[str]]) -> dict[str, Any]:
    """How unique the identifiers are, and how many codes each level uses."""
    groups = Counter(map(tuple, tokens))
    shared = [size for size in groups.values() if size > 1]
    depth = max(map(len, tokens))
    return {
        "items": len(tokens),
        "distinct_paths": len(groups),
        "colliding_items": sum(shared),
        "largest_group": max(shared, default=1),
        "collision_rate": 1 - len(groups) / len(tokens),
        "codes_per_level": [len({path[level] for path in tokens if len(path) > level}) for level in range(depth)],
        "prefixes_per_depth": [len({tuple(path[: level + 1]) for path in tokens}) for level in range(depth)],
    }
