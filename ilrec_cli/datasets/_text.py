"""Item text as people wrote it, made plain: entities, tags, control characters, lists given as strings."""

from __future__ import annotations

import ast
import html
import json
import re
from typing import Any

TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b\ufeff]+")
SPACES = re.compile(r"\s+")


def plain(value: Any) -> str:
    """One line of plain text from a string, a list, or a list written as a string; '' for nothing.

    >>> plain("['Strings &amp; picks', '<b>new</b>']")
    'Strings & picks new'
    """
    if isinstance(value, str):
        value = unquote_list(value)
    if isinstance(value, list | tuple):
        return " ".join(filter(None, (plain(part) for part in value)))
    if value is None:
        return ""
    text = TAG.sub(" ", html.unescape(str(value)))
    return SPACES.sub(" ", CONTROL.sub(" ", text)).strip()


def joined(value: Any) -> str:
    """The text as it is; the parts of a list with spaces between."""
    if isinstance(value, list | tuple):
        return " ".join(str(part) for part in value if part is not None)
    return "" if value is None else str(value)


def parts(value: Any) -> list[Any]:
    """The entries of a list, of a list written as a string, or of a comma-separated string."""
    if isinstance(value, str):
        value = unquote_list(value)
    if isinstance(value, str):
        return value.split(",")
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]


def unquote_list(text: str) -> Any:
    """The list that a string spells in JSON or Python notation, else the string itself. Nothing is executed."""
    stripped = text.strip()
    if not (stripped.startswith("[") and stripped.endswith("]")):
        return text
    for parse in (json.loads, ast.literal_eval):
        try:
            parsed = parse(stripped)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(parsed, list):
            return parsed
    return text
