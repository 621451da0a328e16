"""Latency and throughput of `ilrec serve` over loopback: real histories, 1 to 32 clients, with and without micro-batches.

    python benchmarks/serve.py FOLDER_WITH_LCREC_FILES [--work ilrec-work]

The language model has the size of examples/tiny.yaml and one step of training: how well it recommends plays no part.
Clients are threads of this process, each with one connection and one history a request; the server has its own process.
"""

from __future__ import annotations

import argparse
import http.client
import json
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from _common import ilrec, write

from ilrec_cli import Recommender

DATASET = "Instruments"
TINY = Path(__file__).parents[1] / "examples" / "tiny.yaml"
# (model, clients, histories that the model sees at a time)
CELLS = [("sft", 1, 64), ("sft", 8, 64), ("sft", 32, 64), ("sft", 32, 1), ("sasrec", 1, 64), ("sasrec", 32, 64)]
REQUESTS = {"sft": 600, "sasrec": 3000}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("raw", type=Path)
    parser.add_argument("--work", default="ilrec-work")
    arguments = parser.parse_args()
    common = ["--dataset", DATASET, "--work", arguments.work]
    prepare(arguments.raw, common)
    its = Recommender.load("sasrec-serve", dataset=DATASET, work=arguments.work)
    users = np.random.default_rng(0).permutation(len(its.users))[: max(REQUESTS.values())]
    bodies = [json.dumps({"histories": [its.history(user)[:-1]], "k": 10}).encode() for user in users.tolist()]
    cells = [measure(*cell, common, bodies) for cell in CELLS]
    print(write("serve", {"dataset": DATASET, "items": len(its.raw_ids), "cells": cells}))


def prepare(raw: Path, common: list[Any]) -> None:
    """Data, published identifiers, a model of each kind; what is there stays."""
    ilrec("preprocess", *common, "--raw-dir", raw)
    ilrec("build-ids", *common, "--index", raw / f"{DATASET}.index.json", "--name", "published")
    runs = Path(common[-1]) / DATASET
    if not (runs / "cf" / "sasrec-serve").exists():
        ilrec("train-cf", *common, "--model", "sasrec", "--name", "sasrec-serve", "--epochs", 1, "--limit-users", 500)
    if not (runs / "runs" / "sft-serve").exists():
        ilrec("train", *common, "--config", TINY, "--method", "sft", "--name", "sft-serve", "--max-steps", 1, "--valid-users", 10)  # fmt: skip


def measure(model: str, clients: int, batch_size: int, common: list[Any], bodies: list[bytes]) -> dict[str, Any]:
    """Start the server, warm it, send the requests, stop it."""
    flags = ["--run", f"{model}-serve", "--port", "0", "--batch-size", str(batch_size), "--json"]
    command = [sys.executable, "-m", "ilrec_cli", "serve", *map(str, common), *flags]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    port = int(server.stdout.readline().rsplit(":", 1)[1])
    requests = REQUESTS[model]
    storm(port, clients, bodies[: 4 * clients])
    started = time.perf_counter()
    seconds, failed = storm(port, clients, bodies[:requests])
    wall = time.perf_counter() - started
    server.terminate()
    said = json.loads(server.communicate(timeout=60)[0].splitlines()[-1])
    p50, p99 = np.percentile(seconds, [50, 99])
    cell = {"model": model, "clients": clients, "batch_size": batch_size, "requests": requests, "failed": failed,
            "p50_ms": round(1000 * float(p50), 1), "p99_ms": round(1000 * float(p99), 1),
            "requests_per_second": round(requests / wall, 1), "histories_per_batch": round(said["answered"] / said["batches"], 1)}  # fmt: skip
    print(json.dumps(cell), flush=True)
    return cell


def storm(port: int, clients: int, bodies: list[bytes]) -> tuple[list[float], int]:
    """(seconds of every answer, how many were no answer): each client sends its next request when it has an answer."""
    waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    for body in bodies:
        waiting.put(body)
    seconds: list[float] = []
    failed: list[int] = []

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        while True:
            try:
                body = waiting.get_nowait()
            except queue.Empty:
                return
            started = time.perf_counter()
            connection.request("POST", "/recommend", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = json.loads(response.read())
            seconds.append(time.perf_counter() - started)
            if response.status != 200 or len(answer["results"][0]["recommendations"]) != 10:
                failed.append(response.status)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(seconds) != len(bodies):
        raise SystemExit(f"{len(bodies) - len(seconds)} requests were lost")
    return seconds, len(failed)


if __name__ == "__main__":
    main()
