"""Amazon reviews, 2014 edition: `reviews_*.json.gz` and metadata `meta_*.json.gz` in Python notation.

Source: J. McAuley, C. Targett, Q. Shi, A. van den Hengel, "Image-based recommendations on styles and substitutes",
SIGIR 2015. Reviews are one JSON object per line with reviewerID, asin, overall, unixReviewTime; metadata lines are
Python dictionaries with asin, title, description, brand, categories (a list of paths). They are parsed as literals,
never executed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ilrec_cli.datasets import _files

DEFAULTS = {"user_k": 5, "item_k": 5, "repeats": "first"}
EXPECTS = "reviews_<Name>.json.gz and, for item text, meta_<Name>.json.gz"
GENERATED = False
# The data's pages: https://snap.stanford.edu/data/web-Amazon-links.html, https://jmcauley.ucsd.edu/data/amazon/
HOST = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles"


@dataclass(frozen=True, kw_only=True)
class Config:
    reviews: Annotated[Path | None, "the review file, where the folder holds several"] = None
    metadata: Annotated[Path | None, "the metadata file, where the folder holds several"] = None


def detect(folder: Path) -> bool:
    """Whether the folder holds review lines of this edition."""
    return bool(review_files(folder))


def review_files(folder: Path) -> list[Path]:
    """Files named reviews_*, and others whose first line has the votes field of this edition."""
    return [path for path in _files.files(folder, ".json") if path.name.startswith("reviews_") or _has_votes(path)]


def metadata_files(folder: Path) -> list[Path]:
    """Files named like metadata."""
    return [path for path in _files.files(folder, ".json") if path.name.startswith("meta_")]


def _has_votes(path: Path) -> bool:
    first = _files.first_object(path) or {}
    return {"reviewerID", "helpful"} <= set(first)


def remotes(category: str) -> list[tuple[str, tuple[str, ...]]]:
    """(file name, addresses) of a category's 5-core reviews and its metadata."""
    names = (f"reviews_{category}_5.json.gz", f"meta_{category}.json.gz")
    return [(name, (f"{HOST}/{name}",)) for name in names]
