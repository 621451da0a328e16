"""MiniOneRec's and D3's tables: CSV rows of history and target, one file per split, with an info file of titles.

Source: X. Kong et al., "MiniOneRec: An Open-Source Framework for Scaling Generative Recommendation", arXiv 2510.24431;
K. Bao et al., "Decoding Matters" (D3), EMNLP 2024. Columns: user_id, item_asin, history_item_asin (lists in Python
notation) or item_asins, item_id, item_title, rating, timestamp, and their history_ forms. The split is kept as published.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ilrec_cli.datasets import _files

DEFAULTS = {"user_k": 0, "item_k": 0, "repeats": "keep"}
EXPECTS = "train, valid and test .csv files with user_id, item_id, history_item_id, ... (subfolders train/, valid/, test/ too)"
GENERATED = False
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True, kw_only=True)
class Config:
    train: Annotated[Path | None, "the training rows, where the folder holds several"] = None
    valid: Annotated[Path | None, "the validation rows"] = None
    test: Annotated[Path | None, "the test rows"] = None


def detect(folder: Path) -> bool:
    """Whether the folder holds rows of history and target for a test split."""
    return bool(row_files(folder, "test"))


def row_files(folder: Path, split: str) -> list[Path]:
    """CSV files of a split: in the folder with the split in their name, or in a subfolder of that name."""
    inside = [path for path in _files.files(folder, ".csv") if split in path.name.lower()]
    below = _files.files(folder / split, ".csv") if (folder / split).is_dir() else []
    return [path for path in (*inside, *below) if "history_item_id" in _files.first_line(path)]
