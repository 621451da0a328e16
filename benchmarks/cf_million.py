"""A catalogue of a million items: sampled losses fall, seconds a step, peak memory, and full ranking of 1,000 users.

    python benchmarks/cf_million.py [--steps 250]

The log is a made one. 20,000 of the items are popular, in 1,000 shelves of 20; every user first meets 980 of the others,
which nobody else meets, then visits shelves chosen at random and takes 40 times one of a shelf's items, at random. What
comes next is therefore one of 20 items, and popularity knows nothing of it. The real commands run on it, in processes of
their own whose peak memory is read afterwards: `preprocess`, then `train-cf` with each loss, which ranks the whole catalogue
for 1,000 validation and 1,000 test events at its end. Writes results/cf-million.json.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from _common import ilrec, write

ITEMS, USERS, LIMIT_GIB = 1_000_000, 1_000, 8.0
SHELVES, SHELF, VISIT, VISITS = 1_000, 20, 40, 26
LOSSES = ("sampled", "gbce")
SIZE = ["-o", "hidden_size=64", "-o", "n_layers=2", "-o", "n_negatives=512", "-o", "hidden_dropout_prob=0.1",
        "--batch-size", 512, "--learning-rate", "5e-3"]  # fmt: skip


def made_log(path: Path) -> int:
    """user_id,item_id,timestamp as said above; how many rows."""
    rng = np.random.default_rng(0)
    order = rng.permutation(ITEMS)
    shelf_SK, others_UX = order[: SHELVES * SHELF].reshape(SHELVES, SHELF), order[SHELVES * SHELF :].reshape(USERS, -1)
    with path.open("w") as file:
        file.write("user_id,item_id,timestamp\n")
        for user in range(USERS):
            visited = rng.integers(SHELVES, size=VISITS).repeat(VISIT)
            items = [*others_UX[user], *shelf_SK[visited, rng.integers(SHELF, size=len(visited))]]
            file.write("".join(f"u{user:04},i{item:07},{when}\n" for when, item in enumerate(items)))
    return USERS * (others_UX.shape[1] + VISITS * VISIT)


def train(work: str, loss: str, steps: int) -> dict[str, Any]:
    """One command; its last epoch's log, test metrics, total time, and the largest peak of all commands so far."""
    done = ilrec("train-cf", "--dataset", "million", "--work", work, "--model", "sasrec", "--max-steps", steps,
                 "--name", f"{loss}-{steps}", "-o", f"loss={loss}", *SIZE)  # fmt: skip
    epochs = [json.loads(line) for line in (Path(done["path"]) / "log.jsonl").read_text().splitlines()]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (1 << 20)
    ranking = sum(row["valid_seconds"] for row in epochs)
    return {"steps": steps, "loss": [round(row["loss"], 4) for row in epochs], "test": done["test"],
            "seconds_per_step": round((epochs[-1]["seconds"] - ranking) / steps, 3),
            "ranking_seconds": round(ranking / len(epochs), 2), "command_seconds": done["command_seconds"],
            "peak_gib": round(peak, 2)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=250)
    steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory() as work:
        raw = Path(work) / "raw"
        raw.mkdir()
        started = time.perf_counter()
        print(f"{made_log(raw / 'log.csv'):,} interactions written in {time.perf_counter() - started:.0f} s")
        made = ilrec(
            "preprocess", "--dataset", "million", "--work", work, "--raw-dir", raw, "--user-k", 1, "--item-k", 1
        )
        counted = ilrec("train-cf", "--dataset", "million", "--work", work, "--model", "popularity")
        result = {
            "popularity": {"test": counted["test"], "command_seconds": counted["command_seconds"]},
            **{loss: {"first": train(work, loss, 1)["loss"][0], **train(work, loss, steps)} for loss in LOSSES},
        }
    print(write("cf-million", {"items": ITEMS, "interactions": made["interactions"], "users": USERS, **result}))
    peak = max(result[loss]["peak_gib"] for loss in LOSSES)
    print(f"peak {peak} GiB of {LIMIT_GIB} allowed")
    if peak > LIMIT_GIB:
        raise SystemExit(f"more than {LIMIT_GIB} GiB")


if __name__ == "__main__":
    main()
