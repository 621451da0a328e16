"""quality.json of identifiers: their own figures, and those that need the data they name.

Shapes: I items, D the longest path.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ilrec_cli.artifacts import Artifact
from ilrec_cli.ids import _quality
from ilrec_cli.ids._assignment import Assignment, to_matrix
from ilrec_cli.ids._quantise import as_bytes
from ilrec_cli.stages import _inputs


def measure(
    assignment: Assignment, data: Artifact, *, sizes: list[int], vectors_ID: np.ndarray | None
) -> dict[str, Any]:
    """All figures; `sizes` are those of the codebooks, [] where there are none."""
    path_ID = to_matrix(assignment.codes if sizes else assignment.tokens)
    shared_I = _quality.shared(path_ID)
    return {
        **assignment.notes,
        "version": _quality.VERSION,
        "text": assignment.text,
        **_quality.uniqueness(path_ID),
        **({} if vectors_ID is None else {"distinct_vectors": len(np.unique(as_bytes(vectors_ID)))}),
        "levels": _quality.levels(path_ID, sizes),
        "branching": _quality.branching(path_ID),
        "ambiguous_targets": {split: _targets(data, split, shared_I) for split in ("valid", "test")},
        "purity": _quality.purity(path_ID, _attributes(data), vectors_ID),
    }


def _targets(data: Artifact, split: str, shared_I: np.ndarray) -> dict[str, Any]:
    """Held-out targets whose identifier other items have too: a model cannot name them alone."""
    _, user, end = _inputs.events(data, split)
    sequences = _inputs.sequences(data)
    ambiguous = shared_I[sequences.items[sequences.offsets[user] + end]]
    share = float(ambiguous.mean()) if len(ambiguous) else 0.0
    return {"events": len(ambiguous), "ambiguous": int(ambiguous.sum()), "share": share}


def _attributes(data: Artifact) -> dict[str, np.ndarray]:
    """Brand, and the most specific category, as numbers; -1 where an item has none."""
    items = data.table("items")
    last = [names[-1] if names else "" for names in items["categories"].to_pylist()]
    return {name: _numbers(values) for name, values in (("brand", items["brand"].to_pylist()), ("category", last))}


def _numbers(values: list[str]) -> np.ndarray:
    known = {value: number for number, value in enumerate(dict.fromkeys(value for value in values if value))}
    return np.array([known.get(value, -1) for value in values], dtype=np.int64)
