"""Table 5 on the real Instruments data: what ILRec and the methods that tune preferences after fine-tuning cost, and reach.

    python benchmarks/record_table5.py FOLDER_WITH_LCREC_FILES [--work ilrec-work] [--cells sft,ilrec,s_dpo]

One tiny model from scratch, LC-Rec's identifiers, a prompt for every training target of the same tenth of the users, the
paper's epochs: 5 for SFT and ILRec, 5 + 3 for S-DPO and RosePO, 5 + 3 x (1 + 1) for SPRec. The fine-tuning with which the
last three begin is trained once and counted in each one's total; the collaborative model that ILRec and RosePO ask (of all
users, minutes) is not. Every cell is a JSON file; one that is there is skipped, a training that was stopped is resumed.
Test metrics are of all users. All of it is to take less than an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from _common import RESULTS, ilrec, write
from record_ilrec import DATASET, ranks, run_folder, shown

USERS = 2477  # a tenth
SETTINGS = ["--config", Path(__file__).parents[1] / "examples" / "tiny.yaml", "--dropout", 0, "--weight-decay", 0.01,
            "--valid-users", 1000]  # fmt: skip
EPOCHS = 5
# A tenth of the fine-tuning's: the originals' rates (1e-5, 2e-5) are for pretrained models of billions of weights.
RATE = 2e-4
# SPRec's own. Its rejected answers are the policy's best: at RATE, pushing them down took the chosen ones along, and
# validation hit@10 fell from 0.096 to 0.004 in the first iteration.
SLOW = 2e-5
# method -> (whether it starts from the fine-tuned run, its options)
CELLS: dict[str, tuple[bool, dict[str, Any]]] = {
    "sft": (False, {}),
    "ilrec": (False, {}),
    "s_dpo": (True, {"negatives": 5, "pair_epochs": 3, "pair_learning_rate": RATE}),
    "rosepo": (True, {"pair_epochs": 3, "pair_learning_rate": RATE}),
    "sprec": (True, {"iterations": 3, "pair_learning_rate": SLOW, "round_learning_rate": RATE}),
    "sprec-2e-4": (True, {"iterations": 3, "pair_learning_rate": RATE, "round_learning_rate": RATE}),
}
TABLE = tuple(CELLS)[:5]  # the last cell says why the one before has another rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path)
    parser.add_argument("--work", default="ilrec-work")
    parser.add_argument("--cells", default=",".join(TABLE))
    parser.add_argument(
        "--users", type=int, default=USERS, help="fewer for a trial, not recorded: give it a --work of its own"
    )
    parser.add_argument("--threads", default="2", help="of every training; results depend on it in their last bits")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = arguments.threads
    common = ["--dataset", DATASET, "--work", arguments.work]
    ilrec("preprocess", *common, "--raw-dir", arguments.raw)
    ilrec("build-ids", *common, "--index", arguments.raw / f"{DATASET}.index.json", "--name", "published")
    ilrec("train-cf", *common, "--model", "sasrec", "--name", "reward")
    for cell in arguments.cells.split(","):
        if arguments.users != USERS:
            train(cell, common, arguments.users)
            print(json.dumps(cost(cell, common)["total"]))
        elif not (RESULTS / f"table5-{cell}.json").exists():
            print(write(f"table5-{cell}", record(cell, common)))


def train(cell: str, common: list[Any], users: int) -> str:
    """Train the cell's run unless it is there; the command, without folders of this machine."""
    name, method, (starts, options) = f"table5-{cell}", cell.partition("-")[0], CELLS[cell]
    if starts and not (run_folder("table5-sft", common) / "train" / "manifest.json").exists():
        train("sft", common, users)  # recorded elsewhere, but not in this work folder
    pairs = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
    more = ["--from", "table5-sft"] if starts else ["--targets", "last", "--ids", "published"]
    cf = ["--cf", "reward"] if method in ("ilrec", "rosepo") else []
    command = ["train", *common, "--method", method, *SETTINGS, "--limit-users", users, "--epochs", EPOCHS, *more, *cf, *pairs,
               "--name", name, "--save-every", 200]  # fmt: skip
    unfinished = run_folder(name, common) / "train" / "checkpoints" / "last.safetensors"
    ilrec(*command, *["--resume"] * unfinished.exists())
    return shown(command)


def cost(cell: str, common: list[Any]) -> dict[str, Any]:
    """What the run took, the fine-tuning that it started from included."""
    return dict(json.loads((run_folder(f"table5-{cell}", common) / "train" / "cost.json").read_text()))


def record(cell: str, common: list[Any]) -> dict[str, Any]:
    """The cell: costs by phase, test metrics of all users, their ranks."""
    name, command = f"table5-{cell}", train(cell, common, USERS)
    found = ilrec("evaluate", *common, "--run", name)
    return {
        "method": cell, "users": USERS, "command": command, "cost": cost(cell, common), "events": found["events"],
        "test": found["metrics"][name], "ranks": ranks(name, common),
    }  # fmt: skip


if __name__ == "__main__":
    main()
