"""Full ranking of held-out events by a collaborative model, in memory that does not grow with their number.

Shapes: B rows, E events, I items, k listed items.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ilrec_cli.cf._common import Facts, Scorer
from ilrec_cli.histories import Sequences, gather_runs, histories, targets
from ilrec_cli.ranking import LISTED, Rankings, no_rankings, rank_in, top_k

# Scores of one chunk of events: memory stays the same whatever the number of events.
CHUNK_SCORES = 8_000_000

SeenItems = Literal["ranked", "removed"]


class Events(NamedTuple):
    """Held-out events: which user, and the place of the target in the user's sequence."""

    user_E: np.ndarray
    end_E: np.ndarray


@torch.inference_mode()
def rank_events(
    model: Scorer, sequences: Sequences, events: Events, facts: Facts, device: torch.device,
    seen_items: SeenItems = "ranked", listed: int = LISTED,
) -> Rankings:  # fmt: skip
    """List the best items for every event, a chunk of events at a time; `removed` leaves out what the user had before."""
    if isinstance(model, torch.nn.Module):
        model.eval()
    size = max(1, CHUNK_SCORES // facts.items)
    # Histories of like length together: a chunk is as wide as its longest.
    order_E = np.argsort(np.minimum(events.end_E, facts.max_history), kind="stable")
    parts = []
    for rows in (order_E[start : start + size] for start in range(0, len(order_E), size)):
        chunk = Events(events.user_E[rows], events.end_E[rows])
        score_BI = _scores(model, sequences, chunk, facts, device)
        if seen_items == "removed":
            score_BI = _without_seen(score_BI, sequences, chunk)
        parts.append(_ranked(score_BI, torch.from_numpy(targets(sequences, *chunk)).to(device), listed))
    back_E = np.argsort(order_E, kind="stable")
    return Rankings(*(np.concatenate(column)[back_E] for column in zip(*parts or [no_rankings()], strict=True)))


def _scores(model: Scorer, sequences: Sequences, events: Events, facts: Facts, device: torch.device) -> Tensor:
    history_BT = torch.from_numpy(histories(sequences, *events, facts.max_history)).to(device)
    return model.scores(history_BT, torch.from_numpy(events.user_E).to(device))


def _without_seen(score_BI: Tensor, sequences: Sequences, events: Events) -> Tensor:
    """Scores with -inf for every item before the event, however long ago; the target too if the user had it before."""
    seen_BT = gather_runs(sequences.items, sequences.offsets[events.user_E], events.end_E)
    row, column = np.nonzero(seen_BT >= 0)
    place = torch.from_numpy(row * score_BI.shape[1] + seen_BT[row, column]).to(score_BI.device)
    return score_BI.flatten().index_fill(0, place, -torch.inf).view(score_BI.shape)  # a model may lend one row to all


def _ranked(score_BI: Tensor, target_B: Tensor, listed: int) -> Rankings:
    """The best items of every row; a removed item is not listed, its place is -1."""
    item_Bk = top_k(score_BI, listed)
    score_Bk = score_BI.gather(1, item_Bk)
    item_Bk = torch.where(score_Bk > -torch.inf, item_Bk, -1)
    return Rankings(*(part.cpu().numpy() for part in (item_Bk, score_Bk, rank_in(item_Bk, target_B))))
