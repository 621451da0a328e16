"""Candidate ranking on S-DPO's LastFM files: trained on the validation file, tested on the test file.

    python benchmarks/record_lastfm.py FOLDER_WITH_LASTFM_FILES [--work ilrec-work] [--cells random:0,sft:0] [--max-steps N]

There is no training file. Of the validation file's rows the first nine tenths train and the last tenth validates; the test
file is not touched before the evaluation. One JSON per cell (model and seed) with the figures of every way of ranking, of
targets that occur in training and of those that do not. A cell whose file is there is skipped, a training that was stopped
is resumed. SFT and ILRec get the same model, settings and budget.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from _common import RESULTS, begun, ilrec, write
from record_ilrec import shown

DATASET = "lastfm"
COUNTED = ("random", "popularity")
LM = ["--backbone", "tiny-llama", "--hidden-size", 64, "--n-layers", 3, "--n-heads", 4, "--inner-size", 256, "--epochs", 12,
      "--batch-size", 64, "--dropout", 0.1, "--valid-users", 277]  # fmt: skip
CELLS = ("random:0", "popularity:0", "sasrec:0", "sft:0", "ilrec:0")
WAYS = {"sum": "*-sum-*", "mean": "*-mean-*", "generate": "*-names*"}  # --candidates, and the folder it makes
METRICS = ("hit@1", "hit@5", "ndcg@5", "ndcg@10", "mrr@10", "valid", "substring_hit@1", "substring_valid")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("raw", type=Path)
    parser.add_argument("--work", default="ilrec-work")
    parser.add_argument("--cells", default=",".join(CELLS))
    parser.add_argument("--threads", default="1", help="of every training; results depend on it in their last bits")
    parser.add_argument(
        "--max-steps", type=int, help="a trial of the script in WORK/trial: nothing is written to results/"
    )
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = arguments.threads
    # A trial's runs have other settings: the record would find them, and refuse to go on.
    work = Path(arguments.work, "trial") if arguments.max_steps else arguments.work
    common = ["--dataset", DATASET, "--work", work]
    ilrec("preprocess", *common, "--raw-dir", arguments.raw, "-o", "valid_share=0.1")
    ilrec("build-ids", *common, "--scheme", "title", "--name", "titles")
    for cell in arguments.cells.split(","):
        model, _, seed = cell.partition(":")
        name = f"{model}-s{seed}"
        if (RESULTS / f"lastfm-{name}.json").exists():
            continue
        found = {"model": model, "seed": int(seed), **recorded(name, model, int(seed), common, arguments.max_steps)}
        print(json.dumps(found, indent=1) if arguments.max_steps else write(f"lastfm-{name}", found))


def recorded(name: str, model: str, seed: int, common: list[Any], max_steps: int | None) -> dict[str, Any]:
    """Train a model and evaluate it in every way."""
    cf = model not in ("sft", "ilrec")
    place = Path(common[-1]) / DATASET
    if cf:
        command = ["train-cf", *common, "--model", model, "--seed", seed, "--name", name]
    else:
        reward = f"sasrec-s{seed}"
        if model == "ilrec":
            ilrec(
                "train-cf",
                *common,
                "--model",
                "sasrec",
                "--seed",
                seed,
                "--name",
                reward,
                *begun(place / "cf" / reward),
            )
        command = ["train", *common, "--tasks", "candidates", "--method", model, "--seed", seed, *LM, "--name", name,
                   *(["--cf", reward] if model == "ilrec" else [])]  # fmt: skip
        command += ["--max-steps", max_steps] if max_steps else []
    folder = place / ("cf" if cf else "runs") / name
    train = ilrec(*command, *begun(folder))
    train.pop("path")  # of this machine
    limit = ["--limit-users", 50] if max_steps else []
    found = {
        way: evaluated(name, folder, way, common, limit) for way in (("sum",) if cf else WAYS)
    }  # of scores there is one way
    return {"command": shown(command), "train": train, "test": found}


def evaluated(name: str, folder: Path, way: str, common: list[Any], limit: list[Any]) -> dict[str, Any]:
    """The test file's figures under one protocol."""
    done = ilrec("evaluate", *common, "--run", name, "--candidates", way, *limit)
    (path,) = (folder / "eval").glob("*-cand*" if folder.parent.name == "cf" else WAYS[way])
    result = json.loads((path / "metrics.json").read_text())
    parts = result["slices"]["target_in_training"]
    return {
        "protocol": result["protocol"], "events": result["events"], "seconds": done["command_seconds"],
        "metrics": {key: result["metrics"][key] for key in METRICS if key in result["metrics"]},
        "intervals": {key: result["intervals"][key] for key in METRICS if key in result["intervals"]},
        **{part: {"events": each["events"], **{key: each["metrics"][key] for key in METRICS if key in each["metrics"]}}
           for part, each in parts.items()},
    }  # fmt: skip


if __name__ == "__main__":
    main()
