"""Amazon reviews, 2014 edition: `reviews_*.json.gz` and metadata `meta_*.json.gz` in Python notation.

Source: J. McAuley, C. Targett, Q. Shi, A. van den Hengel, "Image-based recommendations on styles and substitutes",
SIGIR 2015. Reviews are one JSON object per line with reviewerID, asin, overall, unixReviewTime; metadata lines are
Python dictionaries with asin, title, description, brand, categories (a list of paths). They are parsed as literals,
never executed.
"""

from __future__ import annotations

from pathlib import Path

from ilrec_cli.datasets import _amazon, _files
from ilrec_cli.datasets._amazon import DEFAULTS as DEFAULTS
from ilrec_cli.datasets._amazon import Config as Config

EXPECTS = "reviews_<Name>.json.gz and, for item text, meta_<Name>.json.gz"
GENERATED = False
# The data's pages: https://snap.stanford.edu/data/web-Amazon-links.html, https://jmcauley.ucsd.edu/data/amazon/
HOST = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles"


def detect(folder: Path) -> bool:
    """Whether the folder holds review lines of this edition."""
    return bool(review_files(folder))


def review_files(folder: Path) -> list[Path]:
    """Review lines in files named reviews_*, and those that have the votes field of this edition."""
    found = _amazon.review_files(
        folder, ".json", lambda first: "reviewerID" in first or ("asin" in first and "title" not in first), "reviews_"
    )
    return [
        path for path in found if path.name.startswith("reviews_") or "helpful" in (_files.first_object(path) or {})
    ]


def metadata_files(folder: Path) -> list[Path]:
    """Files of item descriptions."""
    return _amazon.metadata_files(folder, ".json", review_files(folder))


def remotes(category: str) -> list[tuple[str, tuple[str, ...]]]:
    """(file name, addresses) of a category's 5-core reviews and its metadata."""
    names = (f"reviews_{category}_5.json.gz", f"meta_{category}.json.gz")
    return [(name, (f"{HOST}/{name}",)) for name in names]
