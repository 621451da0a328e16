"""Reads `<Name>.user.json`: what users like, and what they ask for when they want an item, both in words.

Its object has `user_explicit_preference` (user -> texts) and `user_vague_intention` (`train` -> user -> `item`,
`querys`). Intentions of the test part are about the very items that are held out, and are not read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from ilrec_cli.datasets import _files
from ilrec_cli.datasets._raw import Reading
from ilrec_cli.errors import UserError

PREFERENCES, INTENTIONS = "user_explicit_preference", "user_vague_intention"


def read(path: Path, users: dict[str, str], items: dict[str, str], reading: Reading) -> pl.DataFrame | None:
    """One row for every user with any text: user, item (null without a query), preferences, queries; None if no file."""
    if not path.is_file():
        return None
    data = _files.read_json(path)
    likes = _object(path, data, PREFERENCES)
    intentions = _object(path, _object(path, data, INTENTIONS), "train")
    rows = []
    for user in dict.fromkeys([*likes, *intentions]):
        wish = intentions.get(user)
        if wish is not None and not (isinstance(wish, dict) and type(wish.get("item")) in (int, str)):
            raise UserError(f"{path}: the intention of user '{user}' is {str(wish)[:60]!r}, expected item and querys")
        queries = [] if wish is None else _texts(path, user, wish.get("querys", []), reading)
        rows.append({
            "user": users.get(user, user),
            "item": items.get(str(wish["item"]), str(wish["item"])) if wish is not None and queries else None,
            "preferences": _texts(path, user, likes.get(user, []), reading),
            "queries": queries,
        })  # fmt: skip
    texts = pl.List(pl.String)
    return pl.DataFrame(rows, schema={"user": pl.String, "item": pl.String, "preferences": texts, "queries": texts})


def _object(path: Path, data: Any, name: str) -> dict[str, Any]:
    found = data.get(name, {}) if isinstance(data, dict) else None
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected an object with {PREFERENCES} and {INTENTIONS}, each an object by user")
    return found


def _texts(path: Path, user: str, texts: Any, reading: Reading) -> list[str]:
    """A user's texts, made plain; those of nothing are left out."""
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise UserError(f"{path}: texts of user '{user}' are {str(texts)[:60]!r}, expected a list of texts")
    return [text for text in map(reading.text, texts) if text]
