"""Amazon reviews, 2023 edition: `<Name>.jsonl.gz` reviews and `meta_<Name>.jsonl.gz` metadata.

Source: Y. Hou, J. Li, Z. He, A. Yan, X. Chen, J. McAuley, "Bridging Language and Items for Retrieval and
Recommendation", arXiv 2403.03952. Reviews have user_id, parent_asin, rating and timestamp (milliseconds); metadata has
parent_asin, title, description, store, categories. Variants of a product share a parent_asin, which is the item.
"""

from __future__ import annotations

from pathlib import Path

from ilrec_cli.datasets import _amazon, _files
from ilrec_cli.datasets._amazon import DEFAULTS as DEFAULTS
from ilrec_cli.datasets._amazon import Config as Config

EXPECTS = "<Name>.jsonl.gz (review lines) and, for item text, meta_<Name>.jsonl.gz"
GENERATED = False
# The data's page: https://amazon-reviews-2023.github.io; the second host is the lab's older one.
HOSTS = (
    "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/raw",
    "https://datarepo.eng.ucsd.edu/mcauley_group/data/amazon_2023/raw",
)


def detect(folder: Path) -> bool:
    """Whether the folder holds review lines of this edition."""
    # A first line that cannot be read could be that of any table; the reader names it once the source is chosen.
    return any(_files.first_object(path) is not None for path in review_files(folder))


def review_files(folder: Path) -> list[Path]:
    """Files whose first line is a review, or cannot be read."""
    return _amazon.review_files(folder, ".jsonl", lambda first: {"user_id", "parent_asin"} <= set(first))


def metadata_files(folder: Path) -> list[Path]:
    """Files of item descriptions."""
    return _amazon.metadata_files(folder, ".jsonl", review_files(folder))


def remotes(category: str) -> list[tuple[str, tuple[str, ...]]]:
    """(file name, addresses) of a category's reviews and its metadata."""
    parts = (f"review_categories/{category}.jsonl.gz", f"meta_categories/meta_{category}.jsonl.gz")
    return [(part.rsplit("/", 1)[1], tuple(f"{host}/{part}" for host in HOSTS)) for part in parts]
