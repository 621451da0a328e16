"""Amazon reviews, 2018 edition: review lines (`*.json.gz`) or ratings (`*.csv`), and metadata (`meta_*.json.gz`).

Source: J. Ni, J. Li, J. McAuley, "Justifying recommendations using distantly-labeled reviews and fine-grained
aspects", EMNLP 2019. One JSON object per line; reviews have reviewerID, asin, overall, unixReviewTime; metadata has
asin, title, description, brand, category. The ratings-only file has item, user, rating, time and no header. Plain,
gzip, bzip2 or zstandard, told apart by content.
"""

from __future__ import annotations

from pathlib import Path

from ilrec_cli.datasets import _amazon, _files
from ilrec_cli.datasets._amazon import DEFAULTS as DEFAULTS
from ilrec_cli.datasets._amazon import Config as Config

EXPECTS = (
    "<Name>.json.gz (review lines) or <Name>.csv (item, user, rating, time) and, for item text, meta_<Name>.json.gz"
)
GENERATED = False
# The data's pages: https://nijianmo.github.io/amazon/index.html, https://cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2/
HOSTS = ("https://mcauleylab.ucsd.edu/public_datasets/data/amazon_v2", "https://jmcauley.ucsd.edu/data/amazon_v2")


def detect(folder: Path) -> bool:
    """Whether the folder holds review lines or ratings of this edition."""
    return bool(review_files(folder) or rating_files(folder))


def review_files(folder: Path) -> list[Path]:
    """Files of review lines without the votes field of the edition of 2014."""
    found = _amazon.review_files(
        folder,
        ".json",
        lambda first: ("reviewerID" in first or ("asin" in first and "title" not in first)) and "helpful" not in first,
    )
    return [path for path in found if not path.name.startswith("reviews_")]


def rating_files(folder: Path) -> list[Path]:
    """CSV files without a header: item, user, rating, time."""
    return [path for path in _files.files(folder, ".csv") if is_ratings(path)]


def is_ratings(path: Path) -> bool:
    """Whether a file's first line is item, user, rating, time, the item being an ASIN."""
    parts = _files.first_line(path).split(",")
    numbers = len(parts) == 4 and parts[2].replace(".", "", 1).isdigit() and parts[3].isdigit()
    return numbers and len(parts[0]) == 10 and len(parts[1]) > 10


def metadata_files(folder: Path) -> list[Path]:
    """Files of item descriptions."""
    return _amazon.metadata_files(folder, ".json", review_files(folder))


def remotes(category: str) -> list[tuple[str, tuple[str, ...]]]:
    """(file name, addresses) of a category's 5-core reviews and its metadata."""
    parts = (f"categoryFilesSmall/{category}_5.json.gz", f"metaFiles2/meta_{category}.json.gz")
    return [(part.rsplit("/", 1)[1], tuple(f"{host}/{part}" for host in HOSTS)) for part in parts]
