"""How the presets of collaborative models are chosen: `ilrec tune cf` on the real Instruments data, validation alone.

    python benchmarks/tune_cf.py FOLDER_WITH_LCREC_FILES [--work ilrec-work] [--models gru4rec,bpr] [--threads 1]

One small grid per model, declared here, which holds what ships now; the log that the command wrote is copied, unedited,
to results/tune-MODEL.jsonl. Stopped anywhere, the same call goes on: trials that are recorded are not run again. A test
compares the winner of each log with the preset. --plan prints the grids and what they will take at most, and ends.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
from pathlib import Path
from typing import NamedTuple

from _common import RESULTS, ilrec

DATASET = "Instruments"
RECORDED_THREADS, ONE_THREAD = 2, 1.7  # those of results/cf-*.json, and how much longer one takes


class Grid(NamedTuple):
    """The values of every key, and the epochs that a trial has at most."""

    epochs: int
    values: dict[str, tuple[float, ...]]

    @property
    def trials(self) -> int:
        return math.prod(map(len, self.values.values()))


GRIDS = {
    "gru4rec": Grid(16, {"learning_rate": (2e-3,), "hidden_size": (128, 256), "weight_decay": (0.0, 0.1)}),
    "bpr": Grid(40, {"learning_rate": (2e-3,), "weight_decay": (0.1, 0.3, 1.0), "n_negatives": (1, 4)}),
    "caser": Grid(14, {"weight_decay": (0.1, 0.5), "dropout_prob": (0.3, 0.5)}),
    "sasrec": Grid(20, {"learning_rate": (1e-3, 2e-3), "hidden_dropout_prob": (0.3, 0.5)}),
    "bert4rec": Grid(10, {"learning_rate": (1e-3, 2e-3), "hidden_dropout_prob": (0.2, 0.3)}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path)
    parser.add_argument("--work", type=Path, default=Path("ilrec-work"))
    parser.add_argument("--models", default=",".join(GRIDS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--plan", action="store_true", help="print what would run and how long it takes at most")
    arguments = parser.parse_args()
    models = arguments.models.split(",")
    if strangers := sorted(set(models) - set(GRIDS)):
        parser.error(f"--models: {', '.join(strangers)}; choose from {', '.join(GRIDS)}")
    seconds = {model: at_most(model, arguments.threads) for model in models}
    for model, grid in ((model, GRIDS[model]) for model in models):
        print(f"{model:<9}{grid.trials} trials of at most {grid.epochs} epochs: {seconds[model] / 60:.0f} min at most")
    print(f"in all {sum(seconds.values()) / 60:.0f} min at most; patience ends most trials before", flush=True)
    if arguments.plan:
        return
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    ilrec("preprocess", "--dataset", DATASET, "--work", arguments.work, "--raw-dir", arguments.raw)
    for model in models:
        print(search(model, arguments.work), flush=True)


def search(model: str, work: Path) -> Path:
    """Run what is left of a model's grid; its log as the command left it."""
    grid = GRIDS[model]
    listed = [word for key, values in grid.values.items() for word in ("-o", f"{key}={','.join(map(str, values))}")]
    found = ilrec("tune", "cf", "--dataset", DATASET, "--work", work, "--model", model, "--name", f"bench-{model}",
                  "--epochs", grid.epochs, *listed)  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    return Path(shutil.copyfile(Path(found["path"]) / "trials.jsonl", RESULTS / f"tune-{model}.jsonl"))


def at_most(model: str, threads: int) -> float:
    """Seconds if no trial stops early, by the recorded epochs of the model as it ships."""
    cell = json.loads((RESULTS / f"cf-{model}-s0.json").read_text())["train"]
    slower = ONE_THREAD if threads < RECORDED_THREADS else 1.0
    return GRIDS[model].trials * GRIDS[model].epochs * slower * float(cell["seconds"]) / float(cell["epochs"])


if __name__ == "__main__":
    main()
