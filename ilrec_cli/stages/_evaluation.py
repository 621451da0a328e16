"""Rankings -> an evaluation folder: what was ranked, for whom, under which protocol, with which metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ilrec_cli import artifacts
from ilrec_cli.artifacts import Artifact
from ilrec_cli.metrics import reported_means
from ilrec_cli.ranking import Rankings
from ilrec_cli.stages import _inputs


def protocol(
    split: str, limit_users: int | None, seed: int, *, search: dict[str, Any] | None = None, seen_items: str = "ranked"
) -> dict[str, Any]:
    """What a figure means; part of its identity. `search`: how a language model's list is found, and in which format."""
    rules: dict[str, Any] = {"split": split, "candidates": "full catalogue", "seen_items": seen_items}
    if search is not None:
        rules |= {**search, "length_penalty": 0.0}
    if limit_users is not None:
        rules |= {"limit_users": limit_users, "users_drawn_by_seed": seed}
    return rules


def protocol_name(rules: dict[str, Any]) -> str:
    """The folder of a protocol: test-full, test-full-beam20-vocab, test-full-unseen, valid-full-n500-s0."""
    parts = [rules["split"], "full"]
    if "beams" in rules:
        parts += [f"beam{rules['beams']}", rules["normalize"]]
        parts += [rules["dtype"]] if rules["dtype"] != "float32" else []
    parts += ["unseen"] if rules["seen_items"] == "removed" else []
    if "limit_users" in rules:
        parts += [f"n{rules['limit_users']}", f"s{rules['users_drawn_by_seed']}"]
    return "-".join(parts)


def known(run: Artifact, data: Artifact, rules: dict[str, Any]) -> dict[str, float] | None:
    """The means of this very evaluation, if it was made before."""
    folder = folder_of(run, rules)
    if not artifacts.exists(folder):
        return None
    done = artifacts.read(folder, "eval")
    if done.manifest["parents"] != {"run": run.digest, "data": data.digest}:
        return None
    return dict(done.json("metrics.json")["metrics"])


def write(
    run: Artifact, data: Artifact, rules: dict[str, Any], rankings: Rankings, events: tuple[np.ndarray, ...],
    extra: dict[str, Any],
) -> dict[str, float]:  # fmt: skip
    """Write <run>/eval/<protocol> with original ids in rankings.parquet; the metrics' means."""
    event_E, user_E, end_E = events
    sequences = _inputs.sequences(data)
    target_E = sequences.items[sequences.offsets[user_E] + end_E]
    users = data.table("users")["raw_id"].to_numpy(zero_copy_only=False)
    items = data.table("items")["raw_id"].to_numpy(zero_copy_only=False)
    real = rankings.item_Ek >= 0
    means = reported_means(rankings.rank_E)
    folder = folder_of(run, rules)
    config = {"run": run.name, "protocol": rules}
    with artifacts.create(
        folder, kind="eval", config=config, seed=run.manifest["seed"], parents={"run": run, "data": data}
    ) as aside:
        rows = {
            "event": event_E, "user": users[user_E], "target": items[target_E], "rank": rankings.rank_E,
            "items": _lists(items[np.where(real, rankings.item_Ek, 0)], real),
            "scores": _lists(rankings.score_Ek, real),
        }  # fmt: skip
        artifacts.write_table(aside, "rankings", rows)
        artifacts.write_json(
            aside / "metrics.json", {"protocol": rules, "events": len(event_E), "metrics": means, **extra}
        )
    return means


def folder_of(run: Artifact, rules: dict[str, Any]) -> Path:
    """Evaluations lie beside the run's `train` part."""
    return run.path.parent / "eval" / protocol_name(rules)


def _lists(values: np.ndarray, real: np.ndarray) -> pa.ListArray:
    """Rows without their padding."""
    offsets = np.concatenate([[0], real.sum(1).cumsum()])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values[real]))
