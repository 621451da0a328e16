"""Amazon reviews, 2023 edition: `<Name>.jsonl.gz` reviews and `meta_<Name>.jsonl.gz` metadata.

Source: Y. Hou, J. Li, Z. He, A. Yan, X. Chen, J. McAuley, "Bridging Language and Items for Retrieval and
Recommendation", arXiv 2403.03952. Reviews have user_id, parent_asin, rating and timestamp (milliseconds); metadata has
parent_asin, title, description, store, categories. Variants of a product share a parent_asin, which is the item.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ilrec_cli.datasets import _files

DEFAULTS = {"user_k": 5, "item_k": 5, "repeats": "first"}
EXPECTS = "<Name>.jsonl.gz (review lines) and, for item text, meta_<Name>.jsonl.gz"
GENERATED = False
# The data's page: https://amazon-reviews-2023.github.io; the second host is the lab's older one.
HOSTS = (
    "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/raw",
    "https://datarepo.eng.ucsd.edu/mcauley_group/data/amazon_2023/raw",
)
TICKS = 1000  # of `timestamp`, a second


@dataclass(frozen=True, kw_only=True)
class Config:
    reviews: Annotated[Path | None, "the review file, where the folder holds several"] = None
    metadata: Annotated[Path | None, "the metadata file, where the folder holds several"] = None


def detect(folder: Path) -> bool:
    """Whether the folder holds review lines of this edition."""
    return bool(review_files(folder))


def review_files(folder: Path) -> list[Path]:
    """Files whose first line is a review."""
    return [
        path
        for path in _files.files(folder, ".jsonl")
        if {"user_id", "parent_asin"} <= set(_files.first_object(path) or {})
    ]


def metadata_files(folder: Path) -> list[Path]:
    """Files whose first line describes an item, or that are named like it."""
    reviews = review_files(folder)
    return [path for path in _files.files(folder, ".jsonl") if path not in reviews and _describes(path)]


def _describes(path: Path) -> bool:
    first = _files.first_object(path)
    return path.name.startswith("meta_") if first is None else "parent_asin" in first


def remotes(category: str) -> list[tuple[str, tuple[str, ...]]]:
    """(file name, addresses) of a category's reviews and its metadata."""
    parts = (f"review_categories/{category}.jsonl.gz", f"meta_categories/meta_{category}.jsonl.gz")
    return [(part.rsplit("/", 1)[1], tuple(f"{host}/{part}" for host in HOSTS)) for part in parts]
