"""Amazon reviews, 2018 edition: review lines (`*.json.gz`) and, where present, metadata (`meta_*.json.gz`).

Source: J. Ni, J. Li, J. McAuley, "Justifying recommendations using distantly-labeled reviews and fine-grained
aspects", EMNLP 2019. One JSON object per line; reviews have reviewerID, asin, overall, unixReviewTime; metadata has
asin, title, description, brand, category. Plain or gzip, told apart by content.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ilrec_cli.datasets import _files

# As LC-Rec prepares this data (arXiv 2311.09049): the first of repeated purchases, iterative 5-core.
DEFAULTS = {"user_k": 5, "item_k": 5, "repeats": "first"}
EXPECTS = "<Name>.json.gz (review lines) and, for item text, meta_<Name>.json.gz"
GENERATED = False


@dataclass(frozen=True, kw_only=True)
class Config:
    reviews: Annotated[Path | None, "the review file, where the folder holds several"] = None
    metadata: Annotated[Path | None, "the metadata file, where the folder holds several"] = None


def detect(folder: Path) -> bool:
    """Whether the folder holds review lines."""
    return bool(review_files(folder))


def review_files(folder: Path) -> list[Path]:
    """Files whose first line is a review; where it cannot be read, the name decides, so that the reader can name it."""
    return [path for path in _candidates(folder) if _is(path, {"reviewerID"}, not path.name.startswith("meta_"))]


def metadata_files(folder: Path) -> list[Path]:
    """Files whose first line describes an item, or that are named like it."""
    reviews = review_files(folder)
    described = [path for path in _candidates(folder) if _is(path, {"asin", "title"}, path.name.startswith("meta_"))]
    return [path for path in described if path not in reviews]


def _candidates(folder: Path) -> list[Path]:
    others = (".inter.json", ".item.json", ".index.json")  # of LC-Rec
    files = (path for path in folder.iterdir() if path.is_file() and ".json" in path.name)
    return sorted(path for path in files if not path.name.endswith(others))


def _is(path: Path, keys: set[str], named_so: bool) -> bool:
    first = _files.first_object(path)
    return named_so if first is None else keys <= set(first) or (named_so and "asin" in first)
