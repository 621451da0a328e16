"""Reads the 2014 edition; metadata lines are parsed as Python literals."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from ilrec_cli.datasets import _files, _reviews, amazon2014
from ilrec_cli.datasets._raw import Raw, Reading
from ilrec_cli.errors import UserError

REVIEW = {"user": "reviewerID", "item": "asin", "timestamp": "unixReviewTime", "rating": "overall"}
METADATA = {
    "raw_id": "asin",
    "title": "title",
    "description": "description",
    "brand": "brand",
    "categories": "categories",
}


def load(folder: Path, dataset: str, config: amazon2014.Config, reading: Reading) -> Raw:
    """Interactions by reviewer and ASIN; items without metadata have no text."""
    reviews = config.reviews or _files.named(amazon2014.review_files(folder), folder, dataset, "reviews")
    metadata = config.metadata or _files.named(amazon2014.metadata_files(folder), folder, dataset, "metadata")
    if reviews is None:
        raise UserError(f"{folder}: no review file found; expected {amazon2014.EXPECTS}")
    interactions = _reviews.interactions(reviews, REVIEW, reading)
    return Raw(interactions, _reviews.items(metadata, METADATA, interactions["item"], reading, parse=literal))


def literal(line: str) -> Any:
    """A Python literal; `ValueError` for anything else, calls and names included. Categories become one flat list."""
    found = ast.literal_eval(line.strip())
    if isinstance(found, dict) and isinstance(found.get("categories"), list):
        paths = [path if isinstance(path, list) else [path] for path in found["categories"]]
        found["categories"] = list(dict.fromkeys(name for path in paths for name in path))
    return found
