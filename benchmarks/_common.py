"""What the scripts share: running a command for its JSON, writing results with the machine they come from, tables."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def ilrec(*arguments: object) -> dict[str, Any]:
    """Run a command in a process of its own; what its --json line says, with the seconds it took."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "ilrec_cli", *map(str, arguments), "--json"]
    print("$ ilrec", *arguments, flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    *shown, last = done.stdout.splitlines()
    print("\n".join(shown), flush=True)
    return {**json.loads(last), "command_seconds": round(time.perf_counter() - started, 1)}


def begun(folder: Path) -> list[str]:
    """--resume where a training of a run's or model's folder was stopped after a checkpoint."""
    checkpoints = folder / "train" / "checkpoints"
    there = any((checkpoints / f"{name}.safetensors").exists() for name in ("last", "previous"))
    return ["--resume"] * there


def write(name: str, result: dict[str, Any]) -> Path:
    """results/NAME.json, complete or not at all."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    aside = path.with_suffix(".tmp")
    aside.write_text(json.dumps({"machine": machine(), **result}, indent=1) + "\n")
    aside.replace(path)
    return path


def peak_gib() -> float:
    """Peak resident memory of this process alone (getrusage counts what the parent had before)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**20


def machine() -> dict[str, Any]:
    """Enough to judge a number by."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    return {"date": datetime.now(UTC).date().isoformat(), "cores": os.cpu_count(), "threads": torch.get_num_threads(),
            "gpu": gpu, **versions}  # fmt: skip


def markdown(head: list[str], rows: list[list[Any]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
