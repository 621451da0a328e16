"""What models wrote freely, on its way through chunks of an evaluation to a table and metrics.

Shapes: E events, W bytes of the longest text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ilrec_cli import artifacts

FILL = 255  # no byte of UTF-8


def as_bytes(texts: Sequence[str]) -> np.ndarray:
    """text_EW: a row of bytes for each text."""
    return stacked([np.frombuffer(text.encode(), dtype=np.uint8)[None] for text in texts])


def stacked(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Rows of several parts one after another; rows of bytes are filled to the widest."""
    if not parts or parts[0].ndim == 1:
        return np.concatenate(parts)
    width = max(part.shape[1] for part in parts)
    return np.concatenate([np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values=FILL) for part in parts])


class Writer:
    """Takes the events of an evaluation chunk by chunk: their answers go to a table, what metrics need is kept.

    `write` is None where nothing is written freely.
    """

    def __init__(self, write: Callable[[Mapping[str, Any]], None] | None, raw_I: np.ndarray):
        self.write, self.raw_I = write, raw_I
        self.kept: list[tuple[np.ndarray, ...]] = []

    def __call__(self, event_E: np.ndarray, target_E: np.ndarray, part: Mapping[str, np.ndarray]) -> None:
        if self.write is None:
            return
        texts = [row[row != FILL].tobytes().decode() for row in part["note_text"]]
        named_E, contained_E = part["items"][:, 0], part["note_contained"]
        self.write({"event": event_E, "text": texts, "named": self._raw(named_E), "contained": self._raw(contained_E)})
        self.kept.append((named_E >= 0, contained_E == target_E, contained_E >= 0))

    def values(self) -> dict[str, np.ndarray]:
        """Of every event: whether a candidate was named at all; and hit and validity by S-DPO's rule, the only candidate
        that the text contains. (By what is named, a hit is hit@1.)"""
        names = ("valid", "substring_hit@1", "substring_valid") if self.write else ()
        return {
            name: np.concatenate(column).astype(np.float64)
            for name, column in zip(names, zip(*self.kept, strict=True), strict=True)
        }

    def _raw(self, item_E: np.ndarray) -> pa.Array:
        return pa.array(self.raw_I[np.maximum(item_E, 0)], pa.string(), mask=item_E < 0)


@contextmanager
def writer(folder: Path, raw_I: np.ndarray, rules: Mapping[str, Any]) -> Iterator[Writer]:
    """For an evaluation under these rules; there is a table only where models write freely."""
    if rules.get("search") != "free text":
        yield Writer(None, raw_I)
        return
    with artifacts.table_writer(folder, "answers") as write:
        yield Writer(write, raw_I)
