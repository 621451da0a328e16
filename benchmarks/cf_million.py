"""A catalogue of a million items: seconds a step and peak memory of sampled losses, and full ranking of 1,000 users.

    python benchmarks/cf_million.py [--steps 200]

The log is a made one: 1,000 users walk 2,200 steps each along one order of a million items, so that every item occurs
twice and each is followed by the same one. The real commands run on it, in processes of their own whose peak memory is
read afterwards: `preprocess`, then `train-cf` with each loss, which ranks the whole catalogue for 1,000 validation and
1,000 test events at its end. Writes results/cf-million.json.
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

ITEMS, USERS, WALK, LIMIT_GIB = 1_000_000, 1_000, 2_200, 8.0
SIZE = ["-o", "hidden_size=64", "-o", "n_layers=2", "-o", "n_negatives=512"]


def log_of_walks(path: Path) -> None:
    """user_id,item_id,timestamp: users start a thousand items apart in one random order of the catalogue."""
    order = np.random.default_rng(0).permutation(ITEMS)
    step = np.arange(WALK)
    with path.open("w") as file:
        file.write("user_id,item_id,timestamp\n")
        for user in range(USERS):
            walk = order[(user * ITEMS // USERS + step) % ITEMS]
            file.write("".join(f"u{user:04},i{item:07},{when}\n" for item, when in zip(walk, step, strict=True)))


def train(work: str, loss: str, steps: int) -> dict[str, Any]:
    """One command; its epoch's log, total time, and the largest peak of all commands so far."""
    done = ilrec("train-cf", "--dataset", "million", "--work", work, "--model", "sasrec", "--max-steps", steps,
                 "--name", loss, "-o", f"loss={loss}", *SIZE, "--overwrite")  # fmt: skip
    epoch = json.loads((Path(done["path"]) / "log.jsonl").read_text().splitlines()[-1])
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (1 << 20)
    return {"steps": steps, "loss": round(epoch["loss"], 4), "seconds_steps_and_validation": round(epoch["seconds"], 2),
            "command_seconds": done["command_seconds"], "peak_gib": round(peak, 2)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory() as work:
        raw = Path(work) / "raw"
        raw.mkdir()
        started = time.perf_counter()
        log_of_walks(raw / "log.csv")
        print(f"{USERS * WALK:,} interactions written in {time.perf_counter() - started:.0f} s")
        made = ilrec(
            "preprocess", "--dataset", "million", "--work", work, "--raw-dir", raw, "--user-k", 1, "--item-k", 1
        )
        # The same work but for the steps: validation, that is a full ranking of 1,000 users, and a checkpoint.
        result = {
            "one step": train(work, "sampled", 1),
            **{loss: train(work, loss, steps) for loss in ("sampled", "gbce")},
        }
    for loss in ("sampled", "gbce"):
        spent = result[loss]["seconds_steps_and_validation"] - result["one step"]["seconds_steps_and_validation"]
        result[loss]["seconds_per_step"] = round(spent / (steps - 1), 3)
        print(f"{loss:<8} {result[loss]['seconds_per_step']:.3f} s a step, loss {result[loss]['loss']}, "
              f"peak {result[loss]['peak_gib']:.2f} GiB of {LIMIT_GIB:.0f} allowed")  # fmt: skip
    print(write("cf-million", {"items": ITEMS, "interactions": made["interactions"], "users": USERS, **result}))
    if max(row["peak_gib"] for row in result.values()) > LIMIT_GIB:
        raise SystemExit(f"more than {LIMIT_GIB} GiB")


if __name__ == "__main__":
    main()
