"""A catalogue of a million items: sampled losses fall, seconds a step, peak memory, and full ranking of 1,000 users.

    python benchmarks/cf_million.py [--steps 200]

The log is a made one: 1,000 users, each with 200 albums of five items that nobody else has, every album played three times
before the next. All items occur equally often, so popularity knows nothing; two plays of three can be told from the last
few items, by a rule that holds for all million of them. The real commands run on it, in processes of their own whose peak
memory is read afterwards: `preprocess`, then `train-cf` with each loss, which ranks the whole catalogue for 1,000 validation
and 1,000 test events at its end. Writes results/cf-million.json.
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
ALBUM, PLAYS = 5, 3
LOSSES = ("sampled", "gbce")
SIZE = ["-o", "hidden_size=64", "-o", "n_layers=2", "-o", "n_negatives=512", "-o", "hidden_dropout_prob=0.1",
        "-o", "initializer_range=0.1", "--learning-rate", "5e-3"]  # fmt: skip


def made_log(path: Path) -> int:
    """user_id,item_id,timestamp as said above; how many rows."""
    album_UNK = np.random.default_rng(0).permutation(ITEMS).reshape(USERS, -1, ALBUM)
    item_UT = album_UNK.repeat(PLAYS, axis=1).reshape(USERS, -1)
    with path.open("w") as file:
        file.write("user_id,item_id,timestamp\n")
        for user, items in enumerate(item_UT.tolist()):
            file.write("".join(f"u{user:04},i{item:07},{when}\n" for when, item in enumerate(items)))
    return item_UT.size


def train(work: str, loss: str, steps: int) -> dict[str, Any]:
    """One command; its loss (the mean of all steps), test metrics, total time, and the largest peak of all commands so far."""
    done = ilrec("train-cf", "--dataset", "million", "--work", work, "--model", "sasrec", "--max-steps", steps,
                 "--name", f"{loss}-{steps}", "-o", f"loss={loss}", *SIZE)  # fmt: skip
    (epoch,) = (Path(done["path"]) / "log.jsonl").read_text().splitlines()  # 200 steps are a part of one
    row = json.loads(epoch)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (1 << 20)
    return {"steps": steps, "loss": round(row["loss"], 4), "test": done["test"],
            "seconds_per_step": round((row["seconds"] - row["valid_seconds"]) / steps, 3),
            "ranking_seconds": round(row["valid_seconds"], 2), "command_seconds": done["command_seconds"],
            "peak_gib": round(peak, 2)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory() as work:
        raw = Path(work) / "raw"
        raw.mkdir()
        started = time.perf_counter()
        print(f"{made_log(raw / 'log.csv'):,} interactions written in {time.perf_counter() - started:.0f} s")
        made = ilrec("preprocess", "--dataset", "million", "--work", work, "--raw-dir", raw, "--user-k", 1, "--item-k", 1,
                     "--repeats", "keep")  # fmt: skip
        counted = ilrec("train-cf", "--dataset", "million", "--work", work, "--model", "popularity")
        result = {
            "popularity": {"test": counted["test"], "command_seconds": counted["command_seconds"]},
            **{loss: {"first": train(work, loss, 1)["loss"], **train(work, loss, steps)} for loss in LOSSES},
        }
    print(write("cf-million", {"items": ITEMS, "interactions": made["interactions"], "users": USERS, **result}))
    peak = max(result[loss]["peak_gib"] for loss in LOSSES)
    print(f"peak {peak} GiB of {LIMIT_GIB} allowed")
    if peak > LIMIT_GIB:
        raise SystemExit(f"more than {LIMIT_GIB} GiB")


if __name__ == "__main__":
    main()
