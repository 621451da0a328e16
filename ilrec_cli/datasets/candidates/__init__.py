"""Candidate ranking as S-DPO publishes it: JSON rows of a history, twenty candidates and the true one; no users.

Source: Y. Chen et al., "On Softmax Direct Preference Optimization for Recommendation", NeurIPS 2024. Every row is a user
of its own; the file's name says its split (train, val or valid, test). Items are known by their names.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ilrec_cli.datasets import _files

DEFAULTS = {"user_k": 0, "item_k": 0, "repeats": "keep"}
EXPECTS = "*train*.json, *val*.json, *test*.json: lists of rows with historyList, itemList, trueSelection"
GENERATED = False
FIELDS = ("historyList", "itemList", "trueSelection")
# part of a file's name -> split
NAMES = {"train": "train", "val": "valid", "test": "test"}


@dataclass(frozen=True, kw_only=True)
class Config:
    separator: Annotated[str, "what stands between the items of a history"] = "::"
    valid_share: Annotated[
        float,
        "share of the validation file's rows that validate, its last; the others train (LastFM has no training file)",
    ] = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.valid_share <= 1:
            raise ValueError(f"valid_share is {self.valid_share}, expected more than 0 and at most 1")


def detect(folder: Path) -> bool:
    """Whether a file begins like a list of such rows."""
    return bool(row_files(folder))


def row_files(folder: Path) -> dict[str, list[Path]]:
    """The files of every split."""
    found: dict[str, list[Path]] = {}
    for path in _files.files(folder, ".json"):
        split = next((split for part, split in NAMES.items() if part in path.stem.lower()), None)
        if split and _files.begins_with(path, *FIELDS[:2]):
            found.setdefault(split, []).append(path)
    return found
