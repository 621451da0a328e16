"""Every table and figure at tiny scale, as `ilrec reproduce` makes them; pages and pictures go to docs/reproduce/.

    python benchmarks/record_reproduce.py [--work ilrec-work] [--tables table1,figure5] [--threads 1]

A table whose JSON in results/ says `done` is skipped; set that to false to have it looked at again. Its `calls` are the seconds of every call of the command: a second one, after
the first was stopped, does what was missing. What tables share (data, identifiers, models) is made by the first in that
work folder that needs it, and not counted again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from _common import RESULTS, write

DOCS = Path(__file__).parents[1] / "docs" / "reproduce"
TABLES = (
    "table3",
    "table1",
    *(f"table{number}" for number in range(4, 11)),
    *(f"figure{number}" for number in (2, 4, 5, 6)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("ilrec-work"))
    parser.add_argument("--tables", default=",".join(TABLES))
    parser.add_argument("--threads", default="1")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = arguments.threads
    failed = []
    for name in arguments.tables.split(","):
        path = RESULTS / f"reproduce-{name}.json"
        before = json.loads(path.read_text()) if path.exists() else {"calls": []}
        if not before.get("done"):
            found = record(name, arguments.work, before["calls"])
            print(write(path.stem, found), flush=True)
            failed += [name] * (not found["done"])
    if failed:
        sys.exit(f"not complete: {', '.join(failed)}; the same command goes on")


def record(name: str, work: Path, calls: list[dict[str, Any]]) -> dict[str, Any]:
    """Make the table; how long this call and those before took, and what came out."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "ilrec_cli", "reproduce", name, "--scale", "tiny", "--work", str(work)]
    code = subprocess.run(command, check=False).returncode
    call = {"seconds": round(time.perf_counter() - started, 1), "exit_code": code}
    folder = work / "reproduce" / f"{name}-tiny"
    kept = keep(folder, DOCS / name) if code == 0 else []
    cells = list((folder / "cells").glob("*.json"))
    return {"table": name, "calls": [*calls, call], "cells": len(cells), "files": kept, "done": code == 0}


def keep(folder: Path, target: Path) -> list[str]:
    """Copy the page and its pictures; their names."""
    target.mkdir(parents=True, exist_ok=True)
    files = [folder / "report.md", *sorted(folder.glob("*.png"))]
    for each in files:
        shutil.copyfile(each, target / each.name)
    return [each.name for each in files]


if __name__ == "__main__":
    main()
