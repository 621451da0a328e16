"""Times as people write them: whole numbers, numbers with a fraction, dates and times in ISO 8601.

A column of whole numbers stays exact. Numbers with a fraction and dates become seconds with a fraction, and a log with
any of them is kept in microseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import polars as pl

KIND = pl.Datetime  # in a schema: a column of times in any form, which arrives as numbers
LARGEST = 2**63
_FAR = 2**63 - 1  # microseconds of a time too far away to be one
MICROSECONDS = 1_000_000
# A whole number above this is no time in seconds (it would be after the year 5000), and so on upwards.
UNITS = ((10**17, 10**9), (10**14, 10**6), (10**11, 10**3))


def one(text: str) -> int | float | None:
    """Seconds (or the log's own unit, for whole numbers) that a text spells, None if it spells no time."""
    try:
        found: int | float = int(text)
    except ValueError:
        try:
            found = float(text)
        except ValueError:
            try:
                moment = datetime.fromisoformat(text.strip())
            except ValueError:
                return None
            found = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not abs(found) < LARGEST:  # true for NaN too
        return None
    return int(found) if isinstance(found, float) and found.is_integer() else found


def stored(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema as polars reads it: times as text."""
    return {name: pl.String if kind is KIND else kind for name, kind in schema.items()}


def parsed(texts: pl.Series) -> pl.Series:
    """Whole numbers where all are, else numbers with a fraction; null where a text spells no time."""
    whole = texts.cast(pl.Int64, strict=False)
    if not whole.null_count():
        return whole
    numbers = texts.cast(pl.Float64, strict=False)
    if not numbers.null_count() and (numbers.abs() < LARGEST).all():
        return numbers.cast(pl.Int64) if (numbers == numbers.floor()).all() else numbers
    return column([None if text is None else one(text) for text in texts])


def column(values: Sequence[int | float | None]) -> pl.Series:
    """Times as `one` gives them, as a column of whole numbers where all are."""
    whole = all(value is None or isinstance(value, int) for value in values)
    return pl.Series("timestamp", values, dtype=pl.Int64 if whole else pl.Float64, strict=False)


def whole(table: pl.DataFrame, *, fractions: bool) -> pl.DataFrame:
    """A part of a log with whole numbers as times: microseconds if any part of it has fractions."""
    if not fractions:
        return table
    micro = (pl.col("timestamp") * float(MICROSECONDS)).round().cast(pl.Int64, strict=False).fill_null(_FAR)
    return table.with_columns(micro)


def ticks(latest: int, *, fractions: bool) -> int:
    """Units a second of a log's times: microseconds where there were fractions, else by their size."""
    if fractions:
        return MICROSECONDS
    return next((unit for bound, unit in UNITS if latest > bound), 1)
