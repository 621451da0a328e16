"""How long `ilrec --help` and `ilrec train --help` take, beside an import of torch alone, in the same run.

python benchmarks/startup.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from _common import write

COMMANDS = {
    "ilrec --help": [sys.executable, "-m", "ilrec_cli", "--help"],
    "ilrec train --help": [sys.executable, "-m", "ilrec_cli", "train", "--help"],
    "ilrec methods ilrec": [sys.executable, "-m", "ilrec_cli", "methods", "ilrec"],
    "python -c pass": [sys.executable, "-c", "pass"],
    "import torch": [sys.executable, "-c", "import torch"],
}
ROUNDS = 9


def main() -> None:
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS):  # interleaved, so that a busy moment hits all alike
        for name, command in COMMANDS.items():
            started = time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            seconds[name].append(time.perf_counter() - started)
    medians = {name: round(statistics.median(values), 3) for name, values in seconds.items()}
    for name, value in medians.items():
        print(f"{name:<22} {value:.3f} s   {value / medians['import torch']:.2f} of importing torch")
    print(write("startup", {"median_seconds": medians, "rounds": ROUNDS}))


if __name__ == "__main__":
    main()
