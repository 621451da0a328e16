"""Reads the 2018 edition: review lines or the ratings-only CSV, and metadata lines."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from ilrec_cli.datasets import _csv_lines, _files, _log, _reviews, amazon2018
from ilrec_cli.datasets._raw import Raw, Reading

REVIEW = {"user": "reviewerID", "item": "asin", "timestamp": "unixReviewTime", "rating": "overall"}
METADATA = {
    "raw_id": "asin",
    "title": "title",
    "description": "description",
    "brand": "brand",
    "categories": "category",
}
RATINGS = {"item": pl.String, "user": pl.String, "rating": pl.Float64, "timestamp": pl.Int64}


def load(folder: Path, dataset: str, config: amazon2018.Config, reading: Reading) -> Raw:
    """Interactions by reviewer and ASIN; review lines are preferred where both are there."""
    ratings = config.reviews or _files.named(amazon2018.rating_files(folder), folder, dataset, "reviews")
    if ratings and amazon2018.is_ratings(ratings) and (config.reviews or not amazon2018.review_files(folder)):
        format_ = _csv_lines.Format(",", RATINGS, tuple(RATINGS))
        found = _log.interned(_csv_lines.tables(ratings, format_, reading.faults, size=reading.block), reading.spill)
    else:
        found = _reviews.interactions(_reviews.reviews_file(amazon2018, folder, dataset, config), REVIEW, reading)
    return Raw(found, _reviews.items(amazon2018, folder, dataset, config, METADATA, found.items.names, reading))
