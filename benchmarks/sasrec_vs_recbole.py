"""SASRec against RecBole's own, on the same data with the same hidden size, layers and threads: seconds to one quality.

    python3 -m venv RECBOLE && RECBOLE/bin/pip install -r benchmarks/recbole-requirements.txt
    python benchmarks/sasrec_vs_recbole.py FOLDER_WITH_LCREC_FILES --recbole RECBOLE/bin/python [--epochs 16]

RecBole trains first, with its defaults (batch 2,048, rate 1e-3, dropout 0.5), and validates after every epoch as it does by
default. The level is the best validation NDCG@10 it reaches; then ours trains with its defaults until it has reached the
level. Seconds count training and validation, not reading data, at the median pace of an epoch and of a ranking, so that an
epoch that something else disturbed counts for neither. RecBole's curve is kept in the work folder: a second call with as
many epochs or fewer takes it from there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
from pathlib import Path
from typing import Any

from _common import ilrec, write

DATASET = "Instruments"
NAME = "sasrec-64"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("raw", type=Path)
    parser.add_argument("--recbole", type=Path, required=True, help="Python of RecBole's environment")
    parser.add_argument("--work", type=Path, default=Path("ilrec-work"))
    parser.add_argument("--epochs", type=int, default=16)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "2"
    common = ["--dataset", DATASET, "--work", arguments.work]
    ilrec("preprocess", *common, "--raw-dir", arguments.raw)
    load = os.getloadavg()[0]
    theirs = recbole(arguments, common)
    level = max(row["ndcg@10"] for row in theirs["epochs"])
    ilrec("train-cf", *common, "--model", "sasrec", "--name", NAME, "-o", "hidden_size=64", "--overwrite")
    log = arguments.work / DATASET / "cf" / NAME / "train" / "log.jsonl"
    ours = [json.loads(line) for line in log.read_text().splitlines()]
    result = {
        "level": level, "load_average_before": load,
        "recbole": {**reached(peer_rows(theirs), level), **{key: value for key, value in theirs.items() if key != "epochs"}},
        "ilrec": reached(our_rows(ours), level),
    }  # fmt: skip
    print(write("sasrec-vs-recbole", result))


def recbole(arguments: argparse.Namespace, common: list[Any]) -> dict[str, Any]:
    """RecBole's curve: the recorded one if it is long enough, or a new one."""
    folder = arguments.work / "recbole" / DATASET
    curve = folder / "curve.json"
    if not curve.exists() or len(json.loads(curve.read_text())["epochs"]) < arguments.epochs:
        ilrec("data", "convert", *common, "--to", "recbole", "--output", folder, "--overwrite")
        add_times(folder / f"{DATASET}.inter")
        script = Path(__file__).with_name("_recbole.py")
        subprocess.run([arguments.recbole, script, folder, curve, str(arguments.epochs)], check=True)
    return dict(json.loads(curve.read_text()))


def add_times(path: Path) -> None:
    """RecBole needs times to order by, which the published data lost: the place in the file, which is in order."""
    head, *rows = path.read_text().splitlines()
    if "timestamp" not in head:
        lines = [f"{head}\ttimestamp:float", *(f"{row}\t{place}" for place, row in enumerate(rows))]
        path.write_text("\n".join(lines) + "\n")


def peer_rows(theirs: dict[str, Any]) -> list[tuple[float, float, float]]:
    """(NDCG@10, seconds of training, seconds of ranking) of every epoch."""
    return [(row["ndcg@10"], row["train_seconds"], row["valid_seconds"]) for row in theirs["epochs"]]


def our_rows(log: list[dict[str, Any]]) -> list[tuple[float, float, float]]:
    """The same of ours, checkpoints and all else counted as training; NDCG in four decimals, as RecBole reports it."""
    ends = [0.0, *(row["seconds"] for row in log)]
    return [(round(row["valid_ndcg@10"], 4), end - before - row["valid_seconds"], row["valid_seconds"])
            for row, before, end in zip(log, ends, ends[1:], strict=False)]  # fmt: skip


def reached(rows: list[tuple[float, float, float]], level: float) -> dict[str, Any]:
    """When the level was reached, and how long an epoch and a ranking take."""
    epoch = next((place for place, row in enumerate(rows, start=1) if row[0] >= level), None)
    if epoch is None:
        raise SystemExit(f"the level {level} was not reached; the best was {max(row[0] for row in rows)}")
    training, ranking = (statistics.median(row[column] for row in rows) for column in (1, 2))
    return {"epochs_to_level": epoch, "seconds_to_level": epoch * (training + ranking),
            "seconds_as_run": sum(row[1] + row[2] for row in rows[:epoch]),
            "epoch_seconds": training, "ranking_seconds": ranking, "curve": rows}  # fmt: skip


if __name__ == "__main__":
    main()
