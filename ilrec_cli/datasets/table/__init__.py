"""Plain tables: CSV, TSV, JSON lines or Parquet with a user, an item, and perhaps a time and a rating per row.

Columns are found by their names (user_id, item_id, timestamp, rating and the like) or named by options; without a time
the order of the rows counts. A second file may hold the items' text.
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
    items: Annotated[Path | None, "file of item text, with an item column"] = None
    title_col: Annotated[str, "column of the title, in the items' file"] = "title"
    description_col: Annotated[str, "column of the description"] = "description"
    brand_col: Annotated[str, "column of the brand"] = "brand"
    categories_col: Annotated[str, "column of the categories: a list, or names with commas between"] = "categories"


def detect(folder: Path) -> bool:
    """Whether a file of the folder has columns that can only be a user and an item."""
    return bool(interaction_files(folder))


def interaction_files(folder: Path) -> list[Path]:
    return [path for path in _files.files(folder, *SUFFIXES) if _recognised(path)]


def _recognised(path: Path) -> bool:
    if path.name.lower().endswith(".parquet"):
        return True
    line = _files.first_line(path)
    first = _files.first_object(path)
    names = list(first) if first else [part.strip(' "') for part in line.replace("\t", ",").split(",")]
    lower = {name.lower() for name in names}
    published = {"history_item_id", "parent_asin", "item_asin"} & lower and not {"product_id"} & lower
    return bool(not published and lower & set(KNOWN["user"]) and lower & set(KNOWN["item"]))
