"""How much a beam search misses: its lists against those of exact scores, for the same users."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ilrec_cli.metrics import ranking_metrics

SHOWN = ("hit", "ndcg")


def judge(searched: Path, scored: Path, ks: Iterable[int]) -> dict[str, Any]:
    """{"beam_recall": {k: share}, "of_the_search": metrics} from two folders' rankings, over the events of `scored`.

    For the k that the search can answer. beam_recall@k: of the k best items by exact scores, the share among the search's first k; a mean over events.
    """
    beams, exact = (pq.read_table(folder / "rankings.parquet") for folder in (searched, scored))
    beams = beams.take(np.searchsorted(beams["event"].to_numpy(), exact["event"].to_numpy()))  # both are by event
    pairs = list(zip(beams["items"].to_pylist(), exact["items"].to_pylist(), strict=True))
    recall = {
        str(k): float(np.mean([len({*found[:k]} & {*best[:k]}) / len(best[:k]) for found, best in pairs])) for k in ks
    }
    values = ranking_metrics(beams["rank"].to_numpy(), ks)
    means = {name: float(each.mean()) for name, each in values.items() if name.startswith(SHOWN)}
    return {"beam_recall": recall, "of_the_search": means}
