"""Both paradigms on the real Industrial & Scientific data: LC-Rec (published identifiers) and BIGRec (titles), SFT and ILRec.

    python benchmarks/record_industrial.py FOLDER_WITH_LCREC_FILES [--cells sasrec,lcrec-sft] [--work ilrec-work] [--quick]

One JSON per cell with the metrics of every way of decoding; a cell whose file is there is skipped, a training that was
stopped is resumed, an evaluation too. BIGRec's models are decoded over the trie of titles, and freely: their best text
grounded to the nearest title by the TF-IDF encoder of the identifiers `titles-tfidf`, as it is and adjusted by SASRec's
scores with a gamma chosen on validation. Both learn the next-item task alone, from whole sequences (`--targets all`), not
LC-Rec's other tasks nor BIGRec's prompt. All settings are the same for SFT and ILRec, and none was tuned. One thread.
`--quick` is a trial of the script itself: few steps and users, everything in a folder of its own, WORK/quick.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import _common
from _common import begun, ilrec, write

DATASET = "Industrial_and_Scientific"
LM = ["--hidden-size", 64, "--n-layers", 4, "--n-heads", 4, "--inner-size", 256, "--dropout", 0.1, "--weight-decay", 0.1,
      "--targets", "all", "--valid-beams", 5, "--valid-users", 500, "--save-every", 100]  # fmt: skip
EPOCHS = {"lcrec": 20, "bigrec": 8}
IDS = {"lcrec": "published", "bigrec": "titles"}
FREE = ["--decode", "free"]
# How a paradigm's models are decoded: name of the row -> flags of evaluate.
DECODED: dict[str, dict[str, list[Any]]] = {
    "lcrec": {"trie": [], "trie, half SASRec (D3)": ["--cf-guidance", 0.5, "--cf", "sasrec"]},
    "bigrec": {"trie": [], "free": FREE, "free, by SASRec": [*FREE, "--adjust", "cf", "--cf", "sasrec"]},
}
QUICK = {"train": ["--max-steps", 3, "--valid-users", 20], "evaluate": ["--limit-users", 20]}
CELLS = ("random", "popularity", "sasrec", *(f"{paradigm}-{method}" for paradigm in IDS for method in ("sft", "ilrec")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path)
    parser.add_argument("--work", default="ilrec-work")
    parser.add_argument("--cells", default=",".join(CELLS))
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    if arguments.quick:
        arguments.work = Path(arguments.work) / "quick"  # else the record would find runs of other settings there
        _common.RESULTS = arguments.work / "results"
    common = ["--dataset", DATASET, "--work", arguments.work]
    ilrec("preprocess", *common, "--raw-dir", arguments.raw)
    ilrec("build-ids", *common, "--index", arguments.raw / f"{DATASET}.index.json", "--name", "published")
    ilrec("build-ids", *common, "--scheme", "title", "--name", "titles")
    ilrec(
        "build-ids", *common, "--scheme", "rqkmeans", "--text", "title", "--vector-size", 256, "--name", "titles-tfidf"
    )
    collaborative("sasrec", common)  # rewards, guidance and adjustment stand on it
    for cell in arguments.cells.split(","):
        if not (_common.RESULTS / f"industrial-{cell}.json").exists():
            paradigm, _, method = cell.partition("-")
            found = language(cell, paradigm, method, common, arguments.quick) if method else collaborative(cell, common)
            print(write(f"industrial-{cell}", {"cell": cell, **found}))


def collaborative(model: str, common: list[Any]) -> dict[str, Any]:
    folder = Path(common[-1]) / DATASET / "cf" / model
    train = ilrec("train-cf", *common, "--model", model, "--name", model, *begun(folder))
    found = ilrec("evaluate", *common, "--run", model)
    row = {"test": found["metrics"][model], "seconds": found["command_seconds"]}
    return {"train": without_place(train), "events": found["events"], "decoded": {"all items": row}}


def language(name: str, paradigm: str, method: str, common: list[Any], quick: bool) -> dict[str, Any]:
    """Train a model, unless it is there, and decode it in every way."""
    command = ["train", *common, "--method", method, "--ids", IDS[paradigm], *LM, "--epochs", EPOCHS[paradigm],
               "--patience", EPOCHS[paradigm], *(["--cf", "sasrec"] if method == "ilrec" else []), "--name", name]  # fmt: skip
    command += QUICK["train"] if quick else []
    train = ilrec(*command, *begun(Path(common[-1]) / DATASET / "runs" / name))
    decoded = {}
    for way, flags in DECODED[paradigm].items():
        found = ilrec("evaluate", *common, "--run", name, *flags, *(QUICK["evaluate"] if quick else []))
        more = {key: found[key][name] for key in ("texts", "adjustment") if key in found}
        decoded[way] = {"test": found["metrics"][name], "seconds": found["command_seconds"], **more}
    return {"command": shown(command), "train": without_place(train), "events": found["events"], "decoded": decoded}


def without_place(train: dict[str, Any]) -> dict[str, Any]:
    """What a training says, without folders of this machine."""
    return {key: value for key, value in train.items() if key != "path"}


def shown(command: list[Any]) -> str:
    words = [str(part) for part in command]
    place = words.index("--work")
    return " ".join(["ilrec", *words[:place], *words[place + 2 :]])


if __name__ == "__main__":
    main()
