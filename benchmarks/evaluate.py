"""A whole test split with a language model: users a second, and the same bytes whatever happens on the way.

    python benchmarks/evaluate.py --work ilrec-work --dataset Instruments --run sft

The run is evaluated four times on all users: by one process with all cores; by two processes with one core each
(torchrun); by one that is killed (SIGKILL) when a third of the chunks are there, and started again; and again with
batches of another size, whose lists may differ only where scores do by less than 1e-5. Writes results/evaluate.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from _common import write

CORES = os.cpu_count() or 1
NEAR = 1e-5


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", default="ilrec-work")
    parser.add_argument("--dataset", default="Instruments")
    parser.add_argument("--run", default="sft")
    parser.add_argument("--limit-users", default=None, help="smoke test")
    arguments = parser.parse_args()
    flags = ["--dataset", arguments.dataset, "--work", arguments.work, "--run", arguments.run, "--device", "cpu"]
    name = "test-full-beam20-vocab"
    if arguments.limit_users:
        flags += ["--limit-users", arguments.limit_users]
        name += f"-n{arguments.limit_users}-s0"
    folder = Path(arguments.work) / arguments.dataset / "runs" / arguments.run / "eval" / name
    found = {"one_process": evaluated(flags, folder, CORES)}
    first = pq.read_table(folder / "rankings.parquet")
    found["two_processes"] = evaluated(flags, folder, max(CORES // 2, 1), processes=2)
    found["killed_and_resumed"] = killed(flags, folder)
    found["batches_of_32"] = evaluated([*flags, "--batch-size", "32"], folder, CORES)
    found["batches_of_32"] |= apart(first, pq.read_table(folder / "rankings.parquet"))
    digests = {found[way]["sha256"] for way in ("one_process", "two_processes", "killed_and_resumed")}
    print(write("evaluate", {"dataset": arguments.dataset, "protocol": name, "same_bytes": len(digests) == 1, **found}))


def evaluated(flags: list[str], folder: Path, threads: int, processes: int = 1) -> dict[str, Any]:
    """Evaluate anew; what the log says, the seconds of the command, the digest of the rankings."""
    started = time.perf_counter()
    subprocess.run(command(flags, processes, "--overwrite"), check=True, env=environment(threads))
    return measured(folder, time.perf_counter() - started)


def killed(flags: list[str], folder: Path) -> dict[str, Any]:
    """Kill the evaluation when a third of its chunks are there; the one that goes on must find them."""
    chunks = len((folder / "log.jsonl").read_text().splitlines()) - 1
    scratch = folder.with_name(f".{folder.name}.chunks")
    process = subprocess.Popen(command(flags, 1, "--overwrite"), env=environment(CORES))
    while len(list(scratch.glob("*.safetensors"))) < chunks // 3:
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = len(list(scratch.glob("*.safetensors")))
    folder.rename(folder.with_name(".before"))  # or the finished one would be taken
    subprocess.run(command(flags, 1), check=True, env=environment(CORES))
    subprocess.run(["rm", "-r", str(folder.with_name(".before"))], check=True)
    return {"chunks": chunks, "chunks_kept": kept, "sha256": digest(folder),
            "ranked_after": measured(folder, 0)["ranked_now"]}  # fmt: skip


def measured(folder: Path, seconds: float) -> dict[str, Any]:
    pace = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
    return {**pace, "command_seconds": round(seconds, 1), "sha256": digest(folder)}


def apart(one: Any, other: Any) -> dict[str, Any]:
    """In how many lists items stand elsewhere, and whether scores that near are the only reason."""
    moved, unexplained, largest = 0, 0, 0.0
    rows = (
        one["items"].to_pylist(),
        other["items"].to_pylist(),
        one["scores"].to_pylist(),
        other["scores"].to_pylist(),
    )
    for items, others, scores, theirs in zip(*rows, strict=True):
        largest = max(largest, float(np.abs(np.subtract(scores, theirs)).max()))
        places = [place for place, pair in enumerate(zip(items, others, strict=True)) if pair[0] != pair[1]]
        moved += bool(places)
        # The last place competes with an item that is not listed: its own score in both lists decides.
        gaps = [min(abs(scores[place] - scores[near]) for near in (place - 1, place + 1) if 0 <= near < len(scores))
                for place in places if place < len(scores) - 1]  # fmt: skip
        unexplained += any(gap >= NEAR for gap in gaps)
    return {"lists_that_differ": moved, "of_them_without_near_tie": unexplained, "largest_score_difference": largest}


def command(flags: list[str], processes: int, *more: str) -> list[str]:
    launch = [sys.executable, "-m", "ilrec_cli"]
    if processes > 1:
        # What `accelerate launch` does for several GPUs; on a CPU it starts one process only.
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        launch += ["-m", "ilrec_cli"]
    return [*launch, "evaluate", *flags, *more]


def environment(threads: int) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": str(threads)}


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "rankings.parquet").read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
