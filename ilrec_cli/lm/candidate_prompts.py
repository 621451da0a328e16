"""The text of candidate ranking: a history, a list of candidates, one name as the answer. Wording is ours.

Fields and their number follow S-DPO (Y. Chen et al., NeurIPS 2024): ten paraphrases and more, each with a slot for the
history and one for the candidates. Names stand one a line, because names hold commas.
"""

from __future__ import annotations

from typing import NamedTuple

from ilrec_cli.errors import UserError
from ilrec_cli.lm.prompts import Wrap, plain

NEWLINE = "\n"  # between the names of a list
_MARK = "\ue000"  # of private use: in no text


class CandidateTemplate(NamedTuple):
    """An instruction: text before the history, between it and the candidates, after these."""

    before: str
    between: str
    after: str

    def pieces(self, wrap: Wrap) -> list[str]:
        """The same three pieces of the whole prompt."""
        found = wrap(_MARK.join(self)).split(_MARK)
        if len(found) != len(self):
            raise UserError("--chat: the chat template of this backbone repeats or drops what the user says")
        return found


def _template(history: str, candidates: str, request: str) -> CandidateTemplate:
    return CandidateTemplate(f"{history}\n", f"\n\n{candidates}\n", f"\n\n{request}")


# Number 0 is what evaluation uses unless told otherwise.
TEMPLATES = (
    _template(
        "A user chose these items, the oldest first:",
        "One of the following items is what the user chose next:",
        "Which one is it? Answer with its name alone.",
    ),
    _template(
        "Here is what someone has picked so far, in the order of time:",
        "Somewhere in this list is the pick that followed:",
        "Name it, exactly as it is written above.",
    ),
    _template(
        "Past choices of a customer, from the earliest to the latest:",
        "Candidates for the next choice:",
        "Copy the candidate that fits these choices best.",
    ),
    _template(
        "Look at the history of a user, oldest entry first:",
        "These are the options now on offer:",
        "Predict the option that will be taken. Give only its name.",
    ),
    _template(
        "The user's record reads, line by line in time:",
        "The line after that is one of these:",
        "Write the missing line.",
    ),
    _template(
        "From first to last, somebody liked:",
        "We can recommend one thing out of these:",
        "Which recommendation would be taken? Reply with the name.",
    ),
    _template(
        "Sequence of interactions so far:",
        "Possible next interactions:",
        "Select the most likely one and write down its name, nothing else.",
    ),
    _template(
        "Suppose that a person went through these, one after another:",
        "and that exactly one of these came afterwards:",
        "Say which one came afterwards.",
    ),
    _template(
        "Judge a user's taste by what was chosen before (the most recent at the end):",
        "Then compare these alternatives:",
        "State the alternative that matches the taste best.",
    ),
    _template(
        "Earlier selections, listed in order:",
        "The next selection was made from this list:",
        "Find the item that was selected and answer with its title.",
    ),
    _template(
        "You know the following about a user, who consumed in this order:",
        "You are shown a handful of items:",
        "Tell which of these items the user turns to next. One name only.",
    ),
    _template(
        "Chronicle of one user:",
        "Of the names below, one continues the chronicle:",
        "Continue it with that name.",
    ),
)  # fmt: skip


def all_text() -> list[str]:
    """Every piece of text, for tokenizers trained on the spot."""
    return [piece for template in TEMPLATES for piece in template.pieces(plain)] + [NEWLINE]
