"""rankings.parquet: what was listed for every event, in original ids; and what metrics need of it, read back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from ilrec_cli.artifacts import Artifact
from ilrec_cli.histories import targets
from ilrec_cli.stages import _inputs
from ilrec_cli.stages._summary import Judged


class RawIds(NamedTuple):
    """Original ids by number."""

    users: np.ndarray
    items: np.ndarray

    @classmethod
    def of(cls, data: Artifact) -> RawIds:
        return cls(*(data.table(name)["raw_id"].to_numpy(zero_copy_only=False) for name in ("users", "items")))

    def rows(self, user_E: np.ndarray, target_E: np.ndarray, part: Mapping[str, np.ndarray]) -> dict[str, object]:
        """Rows of the table, but for the events' numbers; lists without their padding."""
        real = part["items"] >= 0
        return {
            "user": self.users[user_E], "target": self.items[target_E],
            **{name: part[name] for name in ("rank", "first", "sharing")},
            "items": _lists(self.items[np.where(real, part["items"], 0)], real), "scores": _lists(part["scores"], real),
        }  # fmt: skip


def judged(done: Artifact, data: Artifact) -> tuple[np.ndarray, Judged]:
    """(event_E, what metrics need of the events) of a finished evaluation on these data."""
    table = done.table("rankings").select(["event", "rank", "first", "sharing"])
    event_E, rank_E, first_E, sharing_E = (column.to_numpy().astype(np.int64) for column in table.columns)
    user_E, end_E, target_E = standing(event_E, data)
    return event_E, Judged(user_E, rank_E, first_E, sharing_E, _inputs.training_popularity(data)[target_E], end_E)


def standing(event_E: np.ndarray, data: Artifact) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(user_E, end_E, target_E) of events."""
    splits = data.table("splits")
    every, user, end = (splits[name].to_numpy().astype(np.int64) for name in ("event", "user", "end"))
    order = np.argsort(every, kind="stable")
    place_E = order[np.searchsorted(every, event_E, sorter=order)]
    user_E, end_E = user[place_E], end[place_E]
    return user_E, end_E, targets(_inputs.sequences(data), user_E, end_E)


def _lists(values: np.ndarray, real: np.ndarray) -> pa.ListArray:
    """Rows without their padding."""
    offsets = np.concatenate([[0], real.sum(1).cumsum()])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values[real]))
