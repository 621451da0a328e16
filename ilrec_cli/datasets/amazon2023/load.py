"""Reads the 2023 edition: the item is the parent ASIN, times are milliseconds."""

from __future__ import annotations

from pathlib import Path

from ilrec_cli.datasets import _files, _reviews, amazon2023
from ilrec_cli.datasets._raw import Raw, Reading
from ilrec_cli.errors import UserError

REVIEW = {"user": "user_id", "item": "parent_asin", "timestamp": "timestamp", "rating": "rating"}
METADATA = {
    "raw_id": "parent_asin", "title": "title", "description": "description", "brand": "store", "categories": "categories",
}  # fmt: skip


def load(folder: Path, dataset: str, config: amazon2023.Config, reading: Reading) -> Raw:
    """Interactions by user and parent ASIN, in milliseconds; items without metadata have no text."""
    reviews = config.reviews or _files.named(amazon2023.review_files(folder), folder, dataset, "reviews")
    metadata = config.metadata or _files.named(amazon2023.metadata_files(folder), folder, dataset, "metadata")
    if reviews is None:
        raise UserError(f"{folder}: no review file found; expected {amazon2023.EXPECTS}")
    interactions = _reviews.interactions(reviews, REVIEW, reading)
    return Raw(interactions, _reviews.items(metadata, METADATA, interactions["item"], reading))
