"""Reads 2018 review and metadata lines with polars; a bad line is found again slowly and named."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
from polars.exceptions import ComputeError

from ilrec_cli.datasets import _files, _text, amazon2018
from ilrec_cli.errors import UserError

REVIEW = {"reviewerID": pl.String, "asin": pl.String, "unixReviewTime": pl.Int64, "overall": pl.Float64}
REVIEW_TYPES: dict[str, type | tuple[type, ...]] = {
    "reviewerID": str, "asin": str, "unixReviewTime": int, "overall": (int, float),
}  # fmt: skip
# Nested values declared as text arrive as JSON text: the metadata's types vary from file to file.
METADATA = {"asin": pl.String, "title": pl.String, "description": pl.String, "brand": pl.String, "category": pl.String}


def load(folder: Path, dataset: str, config: amazon2018.Config) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(interactions, items) with raw ids; items without metadata have empty text."""
    reviews = config.reviews or _only(amazon2018.review_files(folder), folder, dataset, "reviews")
    metadata = config.metadata or _only(amazon2018.metadata_files(folder), folder, dataset, "metadata")
    if reviews is None:
        raise UserError(f"{folder}: no review file found; expected {amazon2018.EXPECTS}")
    interactions = _scan(reviews, REVIEW, REVIEW_TYPES).select(
        user="reviewerID",
        item="asin",
        timestamp="unixReviewTime",
        rating=pl.col("overall").cast(pl.Float32),
        row=pl.int_range(pl.len(), dtype=pl.Int64),
    )
    asins = interactions.select(raw_id=pl.col("item")).unique(maintain_order=True)
    return interactions, asins.join(_items(metadata), on="raw_id", how="left", maintain_order="left", validate="1:1")


def _items(path: Path | None) -> pl.DataFrame:
    schema: dict[str, Any] = {"raw_id": pl.String, "source_id": pl.String, "title": pl.String, "description": pl.String,
              "brand": pl.String, "categories": pl.List(pl.String)}  # fmt: skip
    if path is None:
        return pl.DataFrame(schema=schema)
    table = _scan(path, METADATA, {"asin": str}).unique("asin", keep="first", maintain_order=True)
    return pl.DataFrame(
        {
            "raw_id": table["asin"],
            "source_id": table["asin"],
            **{name: [_text.plain(value) for value in table[name]] for name in ("title", "description", "brand")},
            "categories": [_text.words(value) for value in table["category"]],
        },
        schema=schema,
    )


def _scan(path: Path, schema: Mapping[str, Any], required: Mapping[str, type | tuple[type, ...]]) -> pl.DataFrame:
    """All lines as one table; a `UserError` names the line that is not JSON or lacks a required field."""
    try:
        table = pl.scan_ndjson(path, schema=schema).collect()
    except ComputeError as error:
        _files.explain_bad_line(path, required)
        raise UserError(f"{path}: cannot be read: {error}") from error
    except OSError as error:
        _files.refuse_unreadable(path, error)
    if any(table[name].null_count() for name in required):
        _files.explain_bad_line(path, required)
    return table


def _only(paths: list[Path], folder: Path, dataset: str, what: str) -> Path | None:
    """The single file, or the one named after the dataset; None if there is none."""
    named = [path for path in paths if dataset.lower() in path.name.lower()]
    if len(paths) == 1 or len(named) == 1:
        return (named or paths)[0]
    if paths:
        listed = ", ".join(path.name for path in paths)
        raise UserError(f"{folder}: several files hold {what}: {listed}. Choose one: -o {what}=FILE")
    return None
