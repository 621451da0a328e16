"""The pipeline on the real Instruments data: SASRec, and a tiny language model with SFT and with ILRec.

    python benchmarks/record_instruments.py FOLDER_WITH_LCREC_FILES [--seeds 0] [--work ilrec-work]

One JSON per cell (model and seed); a cell whose file is there is skipped, a training that was stopped is resumed.
Both language models get the same settings and the same budget; the best epoch is chosen on validation.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from _common import RESULTS, ilrec, write

DATASET = "Instruments"
LM = ["--config", Path(__file__).parents[1] / "examples" / "tiny.yaml"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("raw", type=Path)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--work", default="ilrec-work")
    arguments = parser.parse_args()
    common = ["--dataset", DATASET, "--work", arguments.work]
    ilrec("preprocess", *common, "--raw-dir", arguments.raw)
    ilrec("build-ids", *common, "--index", arguments.raw / f"{DATASET}.index.json", "--name", "published")
    for seed in map(int, arguments.seeds.split(",")):
        sasrec = ["train-cf", *common, "--model", "sasrec", "--name", f"sasrec-s{seed}", "--seed", seed]
        cell(f"sasrec-s{seed}", sasrec, common)
        # Popularity is counted beside every other model; this only asks for its metrics.
        cell("popularity", ["train-cf", *common, "--model", "popularity", "--name", "popularity"], common)
        for method in ("sft", "ilrec"):
            name = f"{method}-s{seed}"
            more = ["--cf", f"sasrec-s{seed}"] if method == "ilrec" else []
            train = ["train", *common, "--method", method, "--name", name, "--seed", seed, *LM, *more]
            unfinished = Path(arguments.work) / DATASET / "runs" / name / "train" / "checkpoints"
            cell(name, [*train, "--resume"] if unfinished.exists() else train, common)
    ilrec("report", *common)


def cell(name: str, train: list[Any], common: list[Any]) -> None:
    """Train and evaluate one model, unless its result is there."""
    result = f"instruments-{name}"
    if (RESULTS / f"{result}.json").exists():
        return
    trained = ilrec(*train)
    evaluated = ilrec("evaluate", *common, "--run", name)
    trained.pop("path")  # of this machine
    print(write(result, {"command": shown(train), "train": trained, "events": evaluated["events"],
                         "test": evaluated["metrics"][name], "evaluation_seconds": evaluated["command_seconds"]}))  # fmt: skip


def shown(command: list[Any]) -> str:
    """The command without what belongs to this machine: folders, and whether it was resumed."""
    words = [part.name if isinstance(part, Path) else str(part) for part in command if part != "--resume"]
    place = words.index("--work")
    return " ".join(["ilrec", *words[:place], *words[place + 2 :]])


if __name__ == "__main__":
    main()
