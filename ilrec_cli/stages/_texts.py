"""What language models wrote, on its way to disk: columns of a chunk, the table `texts`, and what metrics.json says of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ilrec_cli import artifacts
from ilrec_cli.artifacts import Artifact

FILL = 0xFF  # no byte of UTF-8


class Written(NamedTuple):
    """Rankings of events, with the text that each comes from (object arrays hold strings)."""

    item_Ek: np.ndarray
    score_Ek: np.ndarray
    rank_E: np.ndarray
    text_E: np.ndarray
    is_title_E: np.ndarray


class Named(NamedTuple):
    """The same where the text is to name one of the event's candidates, which alone are listed.

    `contained`: the only candidate whose name occurs in the text, -1 for none or several.
    """

    item_Ek: np.ndarray
    score_Ek: np.ndarray
    rank_E: np.ndarray
    text_E: np.ndarray
    is_title_E: np.ndarray
    contained_E: np.ndarray


def columns(text_E: np.ndarray, is_title_E: np.ndarray, *contained_E: np.ndarray) -> dict[str, np.ndarray]:
    """Texts as rows of bytes, for files that hold numbers."""
    rows = [text.encode() for text in text_E]
    byte_EW = np.full((len(rows), max(map(len, rows), default=0)), FILL, dtype=np.uint8)
    for row, data in enumerate(rows):
        byte_EW[row, : len(data)] = np.frombuffer(data, dtype=np.uint8)
    return {"text": byte_EW, "is_title": is_title_E, **dict(zip(("contained",), contained_E, strict=False))}


def write(folder: Path, event_E: np.ndarray, parts: Iterable[Mapping[str, np.ndarray]]) -> dict[str, Any]:
    """texts.parquet from the chunks, in the events' order; {"texts": what they are like}."""
    texts: list[str] = []
    titles: list[np.ndarray] = []
    for part in parts:
        texts += [row[row != FILL].tobytes().decode() for row in part["text"]]
        titles.append(part["is_title"])
    is_title_E = np.concatenate(titles)
    artifacts.write_table(folder, "texts", {"event": event_E, "text": texts, "is_title": is_title_E})
    found = {text for text, is_title in zip(texts, is_title_E.tolist(), strict=True) if is_title}
    return {
        "texts": {
            "titles": float(is_title_E.mean()), "distinct": len(set(texts)) / len(texts),
            "distinct_texts": len(set(texts)), "distinct_titles": len(found),
            "empty": float(np.mean([not text for text in texts])),
        }
    }  # fmt: skip


def figures(parts: Iterable[Mapping[str, np.ndarray]], target_E: np.ndarray) -> dict[str, np.ndarray]:
    """Of every event: whether a candidate is named at all; and hit and validity by S-DPO's rule, the only candidate that
    the text contains. (By what is named, a hit is hit@1.) Nothing where no candidates are to be named."""
    columns = [(part["items"][:, 0], part["contained"]) for part in parts if "contained" in part]
    if not columns:
        return {}
    named_E, contained_E = (np.concatenate(column) for column in zip(*columns, strict=True))
    found = {
        "valid": named_E >= 0, "substring_hit@1": contained_E == target_E, "substring_valid": contained_E >= 0,
    }  # fmt: skip
    return {name: each.astype(np.float64) for name, each in found.items()}


def by_event(done: Artifact) -> dict[int, str]:
    """The text of every event of a finished evaluation."""
    table = done.table("texts")
    return dict(zip(table["event"].to_pylist(), table["text"].to_pylist(), strict=True))
