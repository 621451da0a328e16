"""What a model wrote freely, matched with the names that it was offered."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

QUOTES = "\"'\u201c\u201d\u2018\u2019\u00ab\u00bb"


def plain(text: str) -> str:
    """A name without what does not tell names apart: case, runs of blanks, quotation marks around it, Unicode's variants.

    >>> plain('  "Glee  Cast"\\n')
    'glee cast'
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(QUOTES).strip()


def named(text: str, names: Sequence[str]) -> list[int]:
    """The names that the whole text is, by `plain`; none where it is anything else, or more than one different name.

    A name inside another is not mistaken for it.

    >>> named("Mad Season", ["Season", "mad season", "Glee Cast"])
    [1]
    """
    written = plain(text)
    found = [place for place, name in enumerate(names) if plain(name) == written] if written else []
    return found if len({names[place] for place in found}) == 1 else []


def contained(text: str, names: Sequence[str]) -> int:
    """The only name that occurs somewhere in the text, letter by letter: S-DPO's rule of a valid answer. -1: none, or several.

    >>> contained("It is Mad Season.", ["Season", "Mad Season", "Glee Cast"])
    -1
    """
    found = [place for place, name in enumerate(names) if name in text]
    return found[0] if len(found) == 1 else -1
