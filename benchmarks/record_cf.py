"""Every collaborative model on the real Instruments data: metrics, training time, epochs, peak memory.

    python benchmarks/record_cf.py FOLDER_WITH_LCREC_FILES [--work ilrec-work] [--cells sasrec:0,sasrec:1]

One JSON per cell (model and seed), each trained in a process of its own with two threads, so that its peak memory is its
own; a cell whose file is there is skipped, a training that was stopped is resumed. A model that has a preset for the data
set is trained with it; docs/benchmarks.md says how presets were chosen.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from _common import RESULTS, ilrec, peak_gib, write

DATASET = "Instruments"
PRESET = "instruments"
CELLS = ("sasrec:0", "sasrec:1", "sasrec:2", "gru4rec:0", "caser:0", "bpr:0", "bert4rec:0", "popularity:0", "random:0",
         "gru4rec:1", "gru4rec:2")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("raw", type=Path)
    parser.add_argument("--work", default="ilrec-work")
    parser.add_argument("--cells", default=",".join(CELLS))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        measured(json.loads(arguments.one))
        return
    ilrec("preprocess", "--dataset", DATASET, "--work", arguments.work, "--raw-dir", arguments.raw)
    for cell in arguments.cells.split(","):
        model, _, seed = cell.partition(":")
        if not (RESULTS / f"cf-{model}-s{seed}.json").exists():
            record(model, int(seed), arguments.work)


def record(model: str, seed: int, work: str) -> None:
    """Train and evaluate one model; write its file."""
    name = f"{model}-s{seed}"
    command = ["train-cf", "--dataset", DATASET, "--model", model, "--seed", str(seed), "--name", name, *preset(model)]
    unfinished = Path(work) / DATASET / "cf" / name / "train" / "checkpoints" / "last.safetensors"
    full = [*command, "--work", work, "--json", *["--resume"] * unfinished.exists()]
    print("$ ilrec", *command, flush=True)
    child = [sys.executable, __file__, "-", "--one", json.dumps(full)]
    done = subprocess.run(
        child, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "2"}
    )
    *shown, last = done.stdout.splitlines()
    print("\n".join(shown), flush=True)
    found: dict[str, Any] = json.loads(last)
    found["train"].pop("path")  # of this machine
    print(write(f"cf-{name}", {"command": " ".join(["ilrec", *command]), "model": model, "seed": seed,
                               "resumed": unfinished.exists(), **found}))  # fmt: skip


def preset(model: str) -> list[str]:
    from ilrec_cli import plugins

    return ["--preset", PRESET] if PRESET in plugins.load("cf", model).PRESETS else []


def measured(command: list[str]) -> None:
    """In the child: run the command, then say what came out and how much memory the process ever held."""
    from ilrec_cli import cli

    result = cli.invoke(command)
    print(json.dumps({"train": result, "peak_gib": peak_gib()}))


if __name__ == "__main__":
    main()
