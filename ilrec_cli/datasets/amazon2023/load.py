"""Reads the 2023 edition: the item is the parent ASIN, times are milliseconds."""

from __future__ import annotations

from pathlib import Path

from ilrec_cli.datasets import _reviews, amazon2023
from ilrec_cli.datasets._raw import Raw, Reading

REVIEW = {"user": "user_id", "item": "parent_asin", "timestamp": "timestamp", "rating": "rating"}
METADATA = {
    "raw_id": "parent_asin", "title": "title", "description": "description", "brand": "store", "categories": "categories",
}  # fmt: skip


def load(folder: Path, dataset: str, config: amazon2023.Config, reading: Reading) -> Raw:
    """Interactions by user and parent ASIN, in milliseconds; items without metadata have no text."""
    found = _reviews.interactions(_reviews.reviews_file(amazon2023, folder, dataset, config), REVIEW, reading)
    items = _reviews.items(amazon2023, folder, dataset, config, METADATA, found.items.names, reading)
    return Raw(found, items, ticks=1000)
