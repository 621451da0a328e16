"""Reads the 2018 edition: review lines or the ratings-only CSV, and metadata lines."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from ilrec_cli.datasets import _csv_lines, _files, _raw, _reviews, amazon2018
from ilrec_cli.datasets._raw import Raw, Reading
from ilrec_cli.errors import UserError

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
    """Interactions by reviewer and ASIN; items without metadata have no text."""
    reviews = config.reviews or _files.named(amazon2018.review_files(folder), folder, dataset, "reviews")
    ratings = None if reviews else _files.named(amazon2018.rating_files(folder), folder, dataset, "reviews")
    metadata = config.metadata or _files.named(amazon2018.metadata_files(folder), folder, dataset, "metadata")
    if reviews is not None and not amazon2018.is_ratings(reviews):
        interactions = _reviews.interactions(reviews, REVIEW, reading)
    elif found := reviews or ratings:
        format_ = _csv_lines.Format(",", RATINGS, tuple(RATINGS))
        interactions = _raw.interned(_csv_lines.tables(found, format_, reading.faults, size=reading.block))
    else:
        raise UserError(f"{folder}: no review file found; expected {amazon2018.EXPECTS}")
    return Raw(interactions, _reviews.items(metadata, METADATA, interactions["item"], reading))
