"""The demonstration with three seeds: SFT, ILRec, SASRec and popularity on the synthetic shop, one JSON per seed.

    python benchmarks/record_demo.py [SEED ...]

A seed whose file is there is skipped; delete the file to run it again.
"""

from __future__ import annotations

import sys
import tempfile

from _common import RESULTS, ilrec, write


def main() -> None:
    for seed in map(int, sys.argv[1:] or ("0", "1", "2")):
        name = f"demo-s{seed}"
        if (RESULTS / f"{name}.json").exists():
            continue
        with tempfile.TemporaryDirectory() as folder:
            result = ilrec("demo", "--work", folder, "--seed", seed)
        test = next(rows for title, rows in result["metrics"].items() if title.startswith("test"))
        print(write(name, {"seed": seed, "seconds": round(result["seconds"], 1), "test": test}))


if __name__ == "__main__":
    main()
