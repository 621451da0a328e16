"""SFT, ILRec and the rows of Table 3 on the real Instruments data: one tiny model from scratch, one budget for all.

    python benchmarks/record_ilrec.py FOLDER_WITH_LCREC_FILES [--work ilrec-work] [--cells tune,sft:0,ilrec:0]

One JSON per cell (row and seed) with the metrics and every test user's rank, so that intervals and paired tests can be
computed from the results alone. A cell whose file is there is skipped, a training that was stopped is resumed: cells can be
added over time, and two calls with different --cells can run side by side. First `tune`: a coordinate search over the
paper's ranges, one seed, half the epochs, judged by validation; its best setting is what all rows of Table 3 start from.
Cells of SWEEPS, DEPTHS and SCALES (one seed, half the epochs) say what a difference to SFT depends on: `alpha=0.1`,
`sft-depth=8`. They are compared with `sft-depth=4` of the same seed, those of another depth or scale with SFT of that;
`sft-depth=4` and `ilrec-depth=4` have two more seeds (`sft-depth=4@1`), which say what a seed can do.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import zlib
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from _common import RESULTS, begun, ilrec, write

from ilrec_cli.json_log import read_log
from ilrec_cli.methods.ilrec import Config

DATASET = "Instruments"
EPOCHS = 5  # Table 5
SETTINGS = ["--config", Path(__file__).parents[1] / "examples" / "tiny.yaml", "--dropout", 0, "--weight-decay", 0.01]
# Rows of Table 3 as settings of the same code; None: its cross-entropy.
ROWS: dict[str, dict[str, Any] | None] = {
    "sft": None,
    "ilrec": {},
    "wo-cpo": {"beta": 0},
    "wo-cpd": {"lambda_cpd": 0},
    "wo-crr": {"mu_crr": 0},
    "wo-cpo-cpd": {"beta": 0, "lambda_cpd": 0},
    "wo-cns": {"negatives_from": "final"},
    "fl-cpo": {"negatives_from": "final", "lambda_cpd": 0, "mu_crr": 0},
    "il-cpo": {"lambda_cpd": 0, "mu_crr": 0},
}
SEVERAL = ("sft", "ilrec", "wo-cpo", "wo-cns")  # three seeds; one for the others
# One setting at a time, everything else as in `ilrec-depth=4`. The penalty is beta w P, which depends on the sign of a logit
# and an offset that all have: `shift` takes both out of it.
SWEEPS: dict[str, tuple[Any, ...]] = {
    "layers": ("consecutive:2", "consecutive:3"),
    "lambda_cpd": (0.001, 0.1, 1.0),
    "beta": (0.01, 0.2, 0.5),
    "alpha": (0.1, 0.5, 1.2),
    "penalty": ("shift",),
}
DEPTHS = (4, 8, 16)  # layers of the backbone, SFT and ILRec each
SCALES = (0.5, 2)  # what all logits of the backbone are multiplied with, SFT and ILRec each
HALF = EPOCHS // 2  # epochs of sweeps, as of the search
CELLS = (
    *(f"{row}:0" for row in ROWS),
    *(f"{row}:{seed}" for seed in (1, 2) for row in SEVERAL),
    *(f"{setting}={value}" for setting, values in SWEEPS.items() for value in values),
    *(f"{row}-depth={depth}" for depth in DEPTHS for row in ("sft", "ilrec")),
    *(f"{row}-logits={scale}" for scale in SCALES for row in ("sft", "ilrec")),
    *(f"{row}-depth={DEPTHS[0]}@{seed}" for seed in (1, 2) for row in ("sft", "ilrec")),
)
STEPS = 100  # of training, that statistics are averaged over
GENERAL = ("step", "epoch", "seconds", "lr", "grad_norm")  # logged of every method
# Tried one after the other, each from the best so far; at most ten runs with the default.
RANGES = (("beta", (0.2,)), ("lambda_cpd", (0.1,)), ("alpha", (0.5,)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("raw", type=Path)
    parser.add_argument("--work", default="ilrec-work")
    parser.add_argument("--cells", default=",".join(("tune", *CELLS)))
    parser.add_argument("--threads", default="1", help="of every training; results depend on it in their last bits")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = arguments.threads
    common = ["--dataset", DATASET, "--work", arguments.work]
    ilrec("preprocess", *common, "--raw-dir", arguments.raw)
    ilrec("build-ids", *common, "--index", arguments.raw / f"{DATASET}.index.json", "--name", "published")
    ilrec("train-cf", *common, "--model", "sasrec", "--name", "reward")
    for cell in arguments.cells.split(","):
        if cell == "tune":
            tune(common)
            continue
        record(cell, common)


class Cell(NamedTuple):
    """What a cell trains, for how long, and what its JSON says of it."""

    name: str
    about: dict[str, Any]
    options: dict[str, Any] | None  # of ILRec; None: SFT
    flags: list[Any]
    epochs: int


def parse(cell: str) -> Cell:
    """`row:seed`, `row-depth=layers`, `row-logits=scale`, `setting=value`, all but the first also with `@seed`."""
    if "=" not in cell:
        row, _, seed = cell.partition(":")
        return Cell(f"{row}-s{seed}", {"row": row, "seed": int(seed)}, _from_best(ROWS[row]), [], EPOCHS)
    setting, _, rest = cell.partition("=")
    value, _, seed = rest.partition("@")
    name = f"{setting}-{value.replace(':', '')}" + f"-s{seed}" * bool(seed)
    about = {"sweep": setting, "value": value, "seed": int(seed or 0)}
    if setting.endswith("-depth"):
        return Cell(name, about, _from_best(ROWS[setting.removesuffix("-depth")]), ["--n-layers", value], HALF)
    if setting.endswith("-logits"):
        flags = ["--backbone", Path(f"logits-{value}"), "--tuning", "full", "--targets", "all"]
        return Cell(name, about, _from_best(ROWS[setting.removesuffix("-logits")]), flags, HALF)
    return Cell(name, about, _from_best({setting: value}), [], HALF)


def _from_best(changes: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if changes is None else {**chosen(), **changes}


def own_value(setting: str) -> str:
    """What a setting is in `ilrec-depth=4`."""
    if setting == "ilrec-logits":
        return "1"
    return str({**vars(Config()), **chosen()}[setting])


def record(text: str, common: list[Any]) -> None:
    """One cell's JSON, unless it is there."""
    cell = parse(text)
    setting = cell.about.get("sweep")
    if setting in SWEEPS and cell.about["value"] == own_value(setting):
        print(f"{text} is ilrec-depth=4")
    elif not (RESULTS / f"ilrec-{cell.name}.json").exists():
        seed = cell.about["seed"]
        flags = [_scaled(part.name, seed, common) if isinstance(part, Path) else part for part in cell.flags]
        train = trained(cell.name, cell.options, seed, cell.epochs, common, flags=flags)
        found = ilrec("evaluate", *common, "--run", cell.name)
        test = {"events": found["events"], "test": found["metrics"][cell.name], "ranks": ranks(cell.name, common)}
        print(write(f"ilrec-{cell.name}", {**cell.about, **train, **test, "statistics": statistics(cell.name, common)}))


def _scaled(name: str, seed: int, common: list[Any]) -> Path:
    """The folder of the backbone `logits-SCALE`, made when it is first asked for."""
    import _scaled_logits

    work = Path(common[-1])
    folder = work / "bases" / f"seed-{seed}" / name
    if not folder.is_dir():
        _scaled_logits.make(folder, float(name.rpartition("-")[2]), SETTINGS[1], seed, work / DATASET / "data")
    return folder


def tune(common: list[Any]) -> None:
    """Coordinate search: each range in turn, keeping what is better on validation; written after every run."""
    path = RESULTS / "ilrec-tune.json"
    runs: list[dict[str, Any]] = json.loads(path.read_text())["runs"] if path.exists() else []
    best: dict[str, Any] = {}
    score = tuned(best, runs, common)
    for name, values in RANGES:
        for value, found in [(value, tuned({**best, name: value}, runs, common)) for value in values]:
            if found > score:
                best, score = {**best, name: value}, found
    print(f"best on validation: {best or 'the defaults'}, NDCG@10 {score:.4f}")


def tuned(options: dict[str, Any], runs: list[dict[str, Any]], common: list[Any]) -> float:
    """Validation NDCG@10 of a setting, trained for half the epochs unless it was before."""
    known = next((run for run in runs if run["options"] == options), None)
    if known is None:
        name = "-".join(["tune", *(f"{key}{value}" for key, value in options.items())])
        found = trained(name, options, 0, HALF, common)
        known = {"options": options, **found}
        runs.append(known)
        write("ilrec-tune", {"runs": runs})
    return float(known["train"]["best_valid_ndcg@10"])


def chosen() -> dict[str, Any]:
    """The best setting of the search."""
    runs = json.loads((RESULTS / "ilrec-tune.json").read_text())["runs"]
    return dict(max(runs, key=lambda run: run["train"]["best_valid_ndcg@10"])["options"])


def trained(
    name: str,
    options: dict[str, Any] | None,
    seed: int,
    epochs: int,
    common: list[Any],
    *,
    flags: list[Any] | tuple[()] = (),
) -> dict[str, Any]:
    """Train one model: by SFT, or by ILRec with these options."""
    method = "sft" if options is None else "ilrec"
    pairs = [part for key, value in (options or {}).items() for part in ("-o", f"{key}={value}")]
    cf = [] if options is None else ["--cf", "reward"]
    command = ["train", *common, "--method", method, "--seed", seed, *SETTINGS, "--epochs", epochs, *cf, *pairs, *flags,
               "--name", name, "--save-every", 200]  # fmt: skip
    train = ilrec(*command, *begun(run_folder(name, common)))
    train.pop("path")  # of this machine
    if not train["trained"]:  # finished by a call that was stopped before it wrote the cell
        train.update(finished(run_folder(name, common) / "train"))
    return {"command": shown(command), "options": options or {}, "train": train}


def finished(folder: Path) -> dict[str, Any]:
    """What `train` said when it ended, from the files that it left."""
    best = max((row for row in read_log(folder / "log.jsonl") if row.get("best")), key=lambda row: row["step"])
    total = json.loads((folder / "cost.json").read_text())["total"]
    figures = {"best_valid_ndcg@10": best["valid_ndcg@10"], "best_step": best["step"]}
    return {"trained": True, **figures, "steps": total["steps"], "seconds": total["seconds"]}


def statistics(name: str, common: list[Any]) -> dict[str, float]:
    """What the method logged (docs/method.md), means over the last STEPS; nothing of SFT."""
    rows = [row for row in read_log(run_folder(name, common) / "train" / "log.jsonl") if "negatives" in row]
    late = [row for row in rows if row["step"] > rows[-1]["step"] - STEPS]
    return {key: fmean(row[key] for row in late) for key in late[0] if key not in GENERAL} if late else {}


def ranks(name: str, common: list[Any]) -> str:
    """Every test event's rank (-1: not among the 20 listed), as bytes in base64: what paired tests need."""
    import numpy as np
    import pyarrow.parquet as pq

    (path,) = (run_folder(name, common) / "eval").glob("*/rankings.parquet")
    rank_E = pq.read_table(path, columns=["event", "rank"]).sort_by("event")["rank"].to_numpy()
    return base64.b64encode(zlib.compress(rank_E.astype(np.int8).tobytes(), 9)).decode()


def run_folder(name: str, common: list[Any]) -> Path:
    return Path(common[-1]) / DATASET / "runs" / name


def shown(command: list[Any]) -> str:
    """The command without the folders of this machine."""
    words = [part.name if isinstance(part, Path) else str(part) for part in command]
    place = words.index("--work")
    return " ".join(["ilrec", *words[:place], *words[place + 2 :]])


if __name__ == "__main__":
    main()
