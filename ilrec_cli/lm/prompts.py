"""The text around items. Wording is ours; fields and structure follow LC-Rec's next-item task.

A prompt is a preamble, an instruction with the history, and the place where the answer begins. Items enter as token
ids between the texts; nothing is re-tokenised, so the answer's first token is always an item token.
"""

from __future__ import annotations

from typing import NamedTuple

SEPARATOR = ", "


class Template(NamedTuple):
    """Text before the history and after it."""

    before: str
    after: str


PREAMBLE = "An instruction follows. Give the answer that it asks for.\n\n"
NEXT_ITEM = (
    Template(
        PREAMBLE + "### Instruction:\nA user chose these items, the oldest first: ",
        ". Which item will the user choose next?\n\n### Response:",
    ),
)


def all_text() -> list[str]:
    """Every piece of prompt text, for tokenizers trained on the spot."""
    return [piece for template in NEXT_ITEM for piece in template] + [SEPARATOR]
