"""What the columns of raw files may hold, the same for every format: text, whole numbers, numbers, times, splits.

A number may be spelled by text. What is there and is none is a fault, never nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import polars as pl

from ilrec_cli import splits
from ilrec_cli.datasets import _times

TIME = pl.Datetime  # in a schema: a column of times in any form, which arrives as `_times` has it
SPLIT = pl.Enum(splits.NAMES)  # arrives as text
NAMES: dict[Any, str] = {
    pl.String: "text",
    pl.Int64: "a whole number",
    pl.Float64: "a number",
    TIME: "a number or a date",
    SPLIT: "train, valid, test or nothing",
}
WHOLE = re.compile(r"[+-]?[0-9]+")


def stored(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema as polars reads it: what has to be looked at as text."""
    return {name: pl.String if kind in (TIME, SPLIT) else kind for name, kind in schema.items()}


def one(value: Any, kind: Any) -> Any:
    """The value of a kind that a raw value stands for (a time as text), None for nothing; `ValueError` for a misfit."""
    if value is None or value == "":
        return None
    if kind == pl.String:
        return _text(value)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError
    text = str(value).strip()
    if not text:
        return None
    if kind is TIME:
        fits = _times.one(text) is not None
        made: Any = text
    elif kind == SPLIT:
        made, fits = text, text in splits.NAMES
    else:
        form = WHOLE if kind == pl.Int64 else _times.NUMBER
        fits = bool(form.fullmatch(text)) and abs(float(text)) < _times.LARGEST
        made = (int(text) if kind == pl.Int64 else float(text)) if fits else None
    if not fits:
        raise ValueError
    return made


def column(name: str, values: list[Any], kind: Any) -> pl.Series:
    """Values as `one` gives them, as a column."""
    if kind is TIME:
        return _times.parsed(pl.Series(name, values, dtype=pl.String))
    return pl.Series(name, values, dtype=pl.String if kind == SPLIT else kind)


def from_texts(texts: pl.Series, kind: Any) -> pl.Series:
    """A column of texts as one of a kind; null where a text is none."""
    if kind is TIME:
        return _times.parsed(texts)
    if kind == SPLIT:
        return texts.set(~texts.is_in(splits.NAMES), None)
    if kind == pl.String:
        return texts
    numbers = texts.cast(kind, strict=False)
    numbers = numbers.set(~sound(numbers), None)
    odd = numbers.is_null().arg_true()
    return numbers.scatter(odd, [_or_none(text, kind) for text in texts.gather(odd)])


def sound(numbers: pl.Series) -> pl.Series:
    """Whether numbers are none that a log can hold; true for nothing."""
    return (numbers.is_finite() & (numbers.abs() < _times.LARGEST)).fill_null(True)


def read(table: pl.DataFrame, schema: Mapping[str, Any]) -> pl.DataFrame | None:
    """A table read by `stored` in its kinds, None if a value is a misfit."""
    for name, kind in schema.items():
        values = table[name]
        if kind == pl.Float64 and not sound(values).all():
            return None
        if kind in (TIME, SPLIT):
            made = from_texts(values, kind)
            if made.null_count() > values.null_count():
                return None
            table = table.with_columns(made)
    return table


def _or_none(text: str | None, kind: Any) -> Any:
    try:
        return one(text, kind)
    except ValueError:
        return None


def _text(value: Any) -> str:
    """Text as it is, numbers and nested values as JSON."""
    value = int(value) if isinstance(value, float) and value.is_integer() else value  # 7.0 is the id 7
    text = value if isinstance(value, str) else json.dumps(value)
    return text.encode("utf-8", "replace").decode("utf-8")  # halves of emoji
