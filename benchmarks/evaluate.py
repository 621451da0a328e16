"""A whole test split with a language model: users a second, and the same bytes whatever happens on the way.

    python benchmarks/evaluate.py --work ilrec-work --dataset Instruments --run sft

The run is evaluated four times on all users: by one process with --threads; by two processes that share them;
by one that is killed (SIGKILL) when a third of the chunks are there, and started again; and again with
batches of another size, whose lists may differ only where scores do by less than 1e-5. Writes results/evaluate.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from _common import write

NEAR = 1e-5


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", default="ilrec-work")
    parser.add_argument("--dataset", default="Instruments")
    parser.add_argument("--run", default="sft")
    parser.add_argument("--limit-users", default=None, help="smoke test")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of one process; two share them")
    arguments = parser.parse_args()
    threads = arguments.threads
    flags = ["--dataset", arguments.dataset, "--work", arguments.work, "--run", arguments.run, "--device", "cpu"]
    name = "test-full-beam20-vocab"
    if arguments.limit_users:
        flags += ["--limit-users", arguments.limit_users]
        name += f"-n{arguments.limit_users}-s0"
    folder = Path(arguments.work) / arguments.dataset / "runs" / arguments.run / "eval" / name
    found = {"one_process": evaluated(flags, folder, threads)}
    first = pq.read_table(folder / "rankings.parquet")
    found["two_processes"] = evaluated(flags, folder, max(threads // 2, 1), processes=2)
    found["killed_and_resumed"] = killed(flags, folder, threads)
    found["batches_of_32"] = evaluated([*flags, "--batch-size", "32"], folder, threads)
    found["batches_of_32"] |= apart(first, pq.read_table(folder / "rankings.parquet"))
    digests = {found[way]["sha256"] for way in ("one_process", "two_processes", "killed_and_resumed")}
    print(write("evaluate", {"dataset": arguments.dataset, "protocol": name, "same_bytes": len(digests) == 1, **found}))


def evaluated(flags: list[str], folder: Path, threads: int, processes: int = 1) -> dict[str, Any]:
    """Evaluate anew; what the log says, the seconds of the command, the digest of the rankings."""
    started = time.perf_counter()
    port = str(free_port())
    launched = [
        subprocess.Popen(command(flags, "--overwrite"), env=environment(threads) | place(rank, processes, port))
        for rank in range(processes)
    ]
    if sum(process.wait() != 0 for process in launched):
        raise SystemExit("an evaluation failed")
    return measured(folder, time.perf_counter() - started)


def place(rank: int, processes: int, port: str) -> dict[str, str]:
    """What `accelerate launch` tells each process (by itself it starts only one on a CPU)."""
    if processes == 1:
        return {}
    return {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}  # fmt: skip


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def killed(flags: list[str], folder: Path, threads: int) -> dict[str, Any]:
    """Kill the evaluation when a third of its chunks are there; the one that goes on must find them."""
    chunks = len((folder / "log.jsonl").read_text().splitlines()) - 1
    scratch = folder.with_name(f".{folder.name}.chunks")
    process = subprocess.Popen(command(flags, "--overwrite"), env=environment(threads))
    while len(list(scratch.glob("*.safetensors"))) < chunks // 3:
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = len(list(scratch.glob("*.safetensors")))
    folder.rename(folder.with_name(".before"))  # or the finished one would be taken
    subprocess.run(command(flags), check=True, env=environment(threads))
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


def command(flags: list[str], *more: str) -> list[str]:
    return [sys.executable, "-m", "ilrec_cli", "evaluate", *flags, *more]


def environment(threads: int) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": str(threads)}


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "rankings.parquet").read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
