"""Amazon reviews, 2018 edition: review lines (`*.json.gz`) or ratings (`*.csv`), and metadata (`meta_*.json.gz`).

Source: J. Ni, J. Li, J. McAuley, "Justifying recommendations using distantly-labeled reviews and fine-grained
aspects", EMNLP 2019. One JSON object per line; reviews have reviewerID, asin, overall, unixReviewTime; metadata has
asin, title, description, brand, category. The ratings-only file has item, user, rating, time and no header. Plain,
gzip, bzip2 or zstandard, told apart by content.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ilrec_cli.datasets import _files

# As LC-Rec prepares this data (arXiv 2311.09049): the first of repeated purchases, iterative 5-core.
DEFAULTS = {"user_k": 5, "item_k": 5, "repeats": "first"}
EXPECTS = (
    "<Name>.json.gz (review lines) or <Name>.csv (item, user, rating, time) and, for item text, meta_<Name>.json.gz"
)
GENERATED = False
# The data's pages: https://nijianmo.github.io/amazon/index.html, https://cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2/
HOSTS = ("https://mcauleylab.ucsd.edu/public_datasets/data/amazon_v2", "https://jmcauley.ucsd.edu/data/amazon_v2")


@dataclass(frozen=True, kw_only=True)
class Config:
    reviews: Annotated[Path | None, "the review or ratings file, where the folder holds several"] = None
    metadata: Annotated[Path | None, "the metadata file, where the folder holds several"] = None


def detect(folder: Path) -> bool:
    """Whether the folder holds review lines or ratings of this edition."""
    return bool(review_files(folder) or rating_files(folder))


def review_files(folder: Path) -> list[Path]:
    """Files whose first line is a review; where it cannot be read, the name decides, so that the reader can name it."""
    return [path for path in _candidates(folder) if _is(path, {"reviewerID"}, _named_like_reviews(path))]


def rating_files(folder: Path) -> list[Path]:
    """CSV files without a header: item, user, rating, time."""
    return [path for path in _files.files(folder, ".csv") if is_ratings(path)]


def is_ratings(path: Path) -> bool:
    """Whether a file's first line is item, user, rating, time, the item being an ASIN."""
    parts = _files.first_line(path).split(",")
    numbers = len(parts) == 4 and parts[2].replace(".", "", 1).isdigit() and parts[3].isdigit()
    return numbers and len(parts[0]) == 10 and len(parts[1]) > 10


def metadata_files(folder: Path) -> list[Path]:
    """Files whose first line describes an item, or that are named like it."""
    reviews = review_files(folder)
    described = [path for path in _candidates(folder) if _is(path, {"asin", "title"}, path.name.startswith("meta_"))]
    return [path for path in described if path not in reviews]


def _candidates(folder: Path) -> list[Path]:
    others = (".inter.json", ".item.json", ".index.json")  # of LC-Rec
    return [path for path in _files.files(folder, ".json") if not path.name.endswith(others)]


def _named_like_reviews(path: Path) -> bool:
    return not path.name.startswith(("meta_", "reviews_"))  # the latter are the edition of 2014


def _is(path: Path, keys: set[str], named_so: bool) -> bool:
    first = _files.first_object(path)
    if first is None:
        return named_so and not _files.first_line(path).startswith("[")
    return "helpful" not in first and (keys <= set(first) or (named_so and "asin" in first))


def remotes(category: str) -> list[tuple[str, tuple[str, ...]]]:
    """(file name, addresses) of a category's 5-core reviews and its metadata."""
    parts = (f"categoryFilesSmall/{category}_5.json.gz", f"metaFiles2/meta_{category}.json.gz")
    return [(part.rsplit("/", 1)[1], tuple(f"{host}/{part}" for host in HOSTS)) for part in parts]
