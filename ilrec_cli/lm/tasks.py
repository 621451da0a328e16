"""LC-Rec's tasks: what the loss is made of in each, and which examples an epoch has.

Shapes: C cases (what can be asked about: an item, a target of a user, a user), E examples of an epoch, T templates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ilrec_cli.errors import UserError, nearest
from ilrec_cli.lm.rows import Runs

# Where each term applies (docs/tasks.md). L_CPO and L_CPD, or plain cross-entropy for SFT, are of every response token
# of every form. L_CRR needs a response that is an item and a prompt that shows a user's history: there, True.
# Choosing among candidates (lm/candidates.py) is a task alone: all terms, L_CRR over the row's candidates.
REWARDED = {
    # task           form                     answer
    ("next_item", "history"): True,          # item
    ("text_to_item", "title"): False,        # item, but of no user
    ("text_to_item", "description"): False,
    ("text_to_item", "both"): False,
    ("item_to_text", "title"): False,        # text
    ("item_to_text", "description"): False,
    ("item_to_text", "both"): False,
    ("fusion", "history_to_title"): False,   # text
    ("fusion", "history_to_description"): False,
    ("fusion", "titles_to_item"): True,      # item, after a history in titles
    ("item_search", "user"): True,           # item
    ("item_search", "query"): False,         # item, but no history is shown
    ("preference", "history"): False,        # text
}  # fmt: skip

NAMES = tuple(dict.fromkeys(task for task, _ in REWARDED))
# LC-Rec draws 20,000 of Instruments' 131,837 targets for fusion, and as many again of other data's: about this share.
DEFAULT = ("next_item", "text_to_item", "item_to_text", "fusion:0.15")
OF_USERS = ("item_search", "preference")  # need what users said


class Share(NamedTuple):
    """How much of a task an epoch has: so many examples, or a share of its cases."""

    task: str
    rows: int | None = None
    weight: float = 1.0

    def of(self, cases: int) -> int:
        """Number of examples."""
        return round(self.weight * cases) if self.rows is None else self.rows


def parse(specs: Sequence[str]) -> tuple[Share, ...]:
    """From `task`, `task:20000` (examples) or `task:0.5` (times its cases); `UserError` for what is none of these."""
    shares = []
    for spec in specs:
        name, colon, amount = spec.partition(":")
        if name not in NAMES:
            raise UserError(f"--tasks: there is no '{name}'; choose from {', '.join(NAMES)}.{nearest(name, NAMES)}")
        try:
            share = Share(name, int(amount)) if amount.isdigit() else Share(name, None, float(amount) if colon else 1.0)
        except ValueError:
            share = Share(name, 0)
        if not 0 < (share.weight if share.rows is None else share.rows) < 10**9:
            raise UserError(f"--tasks {spec}: expected {name}:20000 (examples) or {name}:0.5 (times its own number)")
        shares.append(share)
    twice = [share.task for share in shares if sum(other.task == share.task for other in shares) > 1]
    if twice:
        raise UserError(f"--tasks: '{twice[0]}' is there twice")
    return tuple(shares)


class Cases(NamedTuple):
    """What a task can ask about. A case has no item (-1), no history or no texts where its templates use none."""

    task: str
    item: np.ndarray
    history: Runs
    # Places in `TaskTexts` of what may be said of the user, first and number; one is drawn for each example.
    preference: tuple[np.ndarray, np.ndarray]
    query: tuple[np.ndarray, np.ndarray]

    def __len__(self) -> int:
        return len(self.item)

    def take(self, rows: np.ndarray) -> Cases:
        pairs = ((first[rows], count[rows]) for first, count in (self.preference, self.query))
        return Cases(self.task, self.item[rows], self.history.take(rows), *pairs)

    @classmethod
    def of_items(cls, task: str, item: np.ndarray) -> Cases:
        nothing = np.zeros_like(item)
        return cls(task, item, Runs(item, nothing, nothing), (nothing, nothing), (nothing, nothing))

    @classmethod
    def of_targets(cls, task: str, item: np.ndarray, history: Runs) -> Cases:
        nothing = np.zeros_like(item)
        return cls(task, item, history, (nothing, nothing), (nothing, nothing))


def draw(cases: int, wanted: int, rng: np.random.Generator) -> np.ndarray:
    """So many of the cases, each as often as any other or once more; all of them in order where all are wanted."""
    whole, rest = divmod(wanted, cases)
    return np.concatenate([np.tile(np.arange(cases), whole), np.sort(rng.permutation(cases)[:rest])])


def draw_templates(fits_CT: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One of the templates that fit each case, all alike."""
    place_C = (rng.random(len(fits_CT)) * fits_CT.sum(1)).astype(np.int64)
    chosen: np.ndarray = (fits_CT.cumsum(1) > place_C[:, None]).argmax(1)
    return chosen


def known(shares: Sequence[Share]) -> tuple[str, ...]:
    """Names of tasks."""
    return tuple(share.task for share in shares)
