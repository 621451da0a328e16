"""Reads the 2014 edition; metadata lines are parsed as Python literals."""

from __future__ import annotations

import ast
import warnings
from pathlib import Path
from typing import Any

from ilrec_cli.datasets import _reviews, amazon2014
from ilrec_cli.datasets._raw import Raw, Reading

REVIEW = {"user": "reviewerID", "item": "asin", "timestamp": "unixReviewTime", "rating": "overall"}
METADATA = {
    "raw_id": "asin", "title": "title", "description": "description", "brand": "brand", "categories": "categories",
}  # fmt: skip


def load(folder: Path, dataset: str, config: amazon2014.Config, reading: Reading) -> Raw:
    """Interactions by reviewer and ASIN; items without metadata have no text."""
    found = _reviews.interactions(_reviews.reviews_file(amazon2014, folder, dataset, config), REVIEW, reading)
    items = _reviews.items(amazon2014, folder, dataset, config, METADATA, found.items.names, reading, parse=literal)
    return Raw(found, items)


def literal(line: str) -> Any:
    """A Python literal; `ValueError` for anything else, calls and names included. Categories become one flat list."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd escapes in somebody's product text
        found = ast.literal_eval(line.strip())
    if isinstance(found, dict) and isinstance(found.get("categories"), list):
        paths = [path if isinstance(path, list) else [path] for path in found["categories"]]
        found["categories"] = list(dict.fromkeys(str(name) for path in paths for name in path))
    return found
