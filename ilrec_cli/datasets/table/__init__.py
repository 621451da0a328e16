"""Plain tables: CSV, TSV, JSON lines or Parquet with a user, an item, and perhaps a time, a rating and a split per row.

Columns are found by their names (user_id, item_id, timestamp, rating and the like) or named by options; without a time
the order of the rows counts. A second file, named by an option or `<name>.items.csv` beside `<name>.csv`, may hold the
items' text. Whole numbers are taken as seconds, milliseconds, microseconds or nanoseconds by their size.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ilrec_cli.datasets import _files

DEFAULTS = {"user_k": 5, "item_k": 5, "repeats": "first"}
EXPECTS = "a .csv, .tsv, .jsonl or .parquet file with columns user_id, item_id, timestamp, rating (or name them)"
GENERATED = False
SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
TEXT = ".items."  # in the name of a file of item text
# What a column may be called, lower case, before it has to be named by an option.
KNOWN = {
    "user": ("user", "user_id", "userid", "uid", "customer_id", "session_id"),
    "item": ("item", "item_id", "itemid", "iid", "product_id", "parent_asin", "movie_id", "movieid"),
    "timestamp": ("timestamp", "time", "date", "datetime", "unixreviewtime"),
    "rating": ("rating", "overall", "stars", "score"),
}


@dataclass(frozen=True, kw_only=True)
class Config:
    file: Annotated[Path | None, "the file of interactions, where the folder holds several"] = None
    user_col: Annotated[str | None, "column of the user's id"] = None
    item_col: Annotated[str | None, "column of the item's id"] = None
    time_col: Annotated[str | None, "column of the time: a number, or a date in ISO 8601"] = None
    rating_col: Annotated[str | None, "column of the rating"] = None
    split_col: Annotated[str | None, "column of a fixed split: train, valid, test, or nothing"] = None
    items: Annotated[Path | None, "file of item text, with an item column"] = None
    title_col: Annotated[str, "column of the title, in the items' file"] = "title"
    description_col: Annotated[str, "column of the description"] = "description"
    brand_col: Annotated[str, "column of the brand"] = "brand"
    categories_col: Annotated[str, "column of the categories: a list, or names with commas between"] = "categories"


def detect(folder: Path) -> bool:
    """Whether a file of the folder has columns that can only be a user and an item."""
    return any(_recognised(path) for path in table_files(folder))


def table_files(folder: Path) -> list[Path]:
    """Files that may hold interactions: those with fitting columns, or all if none has."""
    every = [path for path in _files.files(folder, *SUFFIXES) if TEXT not in path.name.lower()]
    return [path for path in every if _recognised(path)] or every


def separator(line: str) -> str:
    """What stands between the values of a header."""
    return max(("\t", ",", ";", "|"), key=line.count)


def _recognised(path: Path) -> bool:
    if path.name.lower().endswith(".parquet"):
        return True
    first = _files.first_object(path)
    if first is not None:
        return _fits(first) and "parent_asin" not in first  # which is the Amazon reviews of 2023
    line = _files.first_line(path)
    names = [part.strip(' "') for part in line.split(separator(line))]
    return _fits(names) and "history_item_id" not in names  # which is MiniOneRec's


def _fits(names: object) -> bool:
    lower = {str(name).lower() for name in names}  # type: ignore[attr-defined]
    return bool(lower & set(KNOWN["user"]) and lower & set(KNOWN["item"]))
