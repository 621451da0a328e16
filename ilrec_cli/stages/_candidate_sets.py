"""The candidate sets of held-out and training events. Shapes: E events, B rows, C candidates."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ilrec_cli.artifacts import Artifact
from ilrec_cli.errors import UserError
from ilrec_cli.stages import _inputs


class Sets(NamedTuple):
    """The candidates of every event that has some, by where the event stands."""

    key_E: np.ndarray  # user and place in the user's sequence, ascending
    candidate_EC: np.ndarray

    @classmethod
    def of(cls, data: Artifact) -> Sets:
        """Those of the data; `UserError` where there are none."""
        if not (data.path / "candidates.parquet").exists():
            raise UserError(
                f"{data.path} has no candidates.parquet. Draw some: ilrec preprocess ... --candidates 19, or take a source "
                "that publishes its own (ilrec datasets candidates)"
            )
        table, splits = data.table("candidates"), data.table("splits")
        event_E = table["event"].to_numpy()
        candidate_EC = table["items"].combine_chunks().values.to_numpy().astype(np.int64).reshape(len(event_E), -1)
        every, user, end = (splits[name].to_numpy().astype(np.int64) for name in ("event", "user", "end"))
        order = np.argsort(every, kind="stable")
        place_E = order[np.searchsorted(every, event_E, sorter=order)]
        key_E = _key(user[place_E], end[place_E])
        order_E = np.argsort(key_E)
        return cls(key_E[order_E], candidate_EC[order_E])

    @property
    def size(self) -> int:
        """Candidates of an event."""
        return int(self.candidate_EC.shape[1])

    def has(self, user_B: np.ndarray, end_B: np.ndarray) -> np.ndarray:
        """True for the events that have candidates."""
        found: np.ndarray = np.isin(_key(user_B, end_B), self.key_E)
        return found

    def find(self, user_B: np.ndarray, end_B: np.ndarray) -> np.ndarray:
        """candidate_BC of events, all of which have some."""
        found: np.ndarray = self.candidate_EC[np.searchsorted(self.key_E, _key(user_B, end_B))]
        return found


def seen(data: Artifact, target_E: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """{slice: {part: mask_E}}: targets that occur in training, as targets or in histories, and those that do not."""
    seen_E = _inputs.seen_in_training(data)[target_E]
    parts = {"seen": seen_E, "unseen": ~seen_E}
    return {"target_in_training": {name: mask_E for name, mask_E in parts.items() if mask_E.any()}}


def _key(user: np.ndarray, end: np.ndarray) -> np.ndarray:
    return (user.astype(np.int64) << 32) + end
