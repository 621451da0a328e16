"""What this machine has and what is missing, in one table; exit code 0 unless something needed is absent."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

from ilrec_cli import __version__
from ilrec_cli.console import Console
from ilrec_cli.errors import UserError
from ilrec_cli.settings import Doctor

# package -> (oldest version, what it is for, extra to install or None where it is needed)
PACKAGES: dict[str, tuple[str, str, str | None]] = {
    "torch": ("2.5", "models", None),
    "transformers": ("5.0", "language models", None),
    "peft": ("0.19", "LoRA", None),
    "accelerate": ("1.10", "devices and processes", None),
    "polars": ("1.36", "preprocess", None),
    "pyarrow": ("16", "tables", None),
    "scikit-learn": ("1.5", "text vectors", None),
    "faiss-cpu": ("1.8", "residual k-means", None),
    "matplotlib": ("3.8", "figures of the report", "plots"),
    "fastapi": ("0.115", "ilrec serve", "serve"),
    "uvicorn": ("0.30", "ilrec serve", "serve"),
}
LEAST_FREE_GB = 2.0


def run(config: Doctor) -> dict[str, Any]:
    """Print the checks; `UserError` if something needed is missing."""
    console = Console.of(config)
    rows = [_python(), *(_package(*entry) for entry in PACKAGES.items()), *_devices(), _disk(config.work), _hub()]
    console.say(f"ilrec {__version__} on {platform.platform()}")
    console.table(["check", "found", "state"], [[row["check"], row["found"], row["state"]] for row in rows])
    missing = [row for row in rows if row["state"].startswith("missing")]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(rows)} checks failed: {'; '.join(row['check'] + ': ' + row['state'] for row in missing)}"
        )
    console.say("\nAll that is needed is here. Next: ilrec demo")
    return {"version": __version__, "checks": rows}


def _check(check: str, found: Any, state: str) -> dict[str, str]:
    return {"check": check, "found": str(found), "state": state}


def _python() -> dict[str, str]:
    fine = sys.version_info >= (3, 11)
    return _check("Python", platform.python_version(), "ok" if fine else "missing: ilrec needs 3.11 or newer")


def _package(name: str, about: tuple[str, str, str | None]) -> dict[str, str]:
    oldest, purpose, extra = about
    label = f"{name} ({purpose})"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        if extra:
            return _check(label, "-", f"optional: pip install 'ilrec[{extra}]'")
        return _check(label, "-", f"missing: pip install {name}")
    if _numbers(version) < _numbers(oldest):
        return _check(label, version, f"missing: needs {oldest} or newer")
    return _check(label, version, "ok")


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split("+")[0].split(".")[:3] if part.isdigit()]


def _devices() -> list[dict[str, str]]:
    rows = [
        _check("CPU cores", len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(), "ok")
    ]
    try:
        import torch
    except ImportError:
        return rows
    rows.append(_check("threads of torch", torch.get_num_threads(), "ok"))
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(number)
            bf16 = "bfloat16" if torch.cuda.is_bf16_supported() else "no bfloat16"
            rows.append(_check(f"cuda:{number}", f"{about.name}, {about.total_memory / 2**30:.0f} GiB, {bf16}", "ok"))
    else:
        rows.append(_check("accelerator", "none: models run on the CPU", "ok"))
    return rows


def _disk(work: Path) -> dict[str, str]:
    folder = work.resolve()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 1e9
    writable = os.access(folder, os.W_OK)
    state = (
        "ok"
        if writable and free >= LEAST_FREE_GB
        else f"missing: {'space' if writable else 'permission to write'} in {folder}"
    )
    return _check(f"free disk for {work}", f"{free:.0f} GB", state)


def _hub() -> dict[str, str]:
    home = os.environ.get("HF_HOME", "~/.cache/huggingface")
    token = "set" if os.environ.get("HF_TOKEN") else "not set (only gated models need it)"
    offline = ", offline mode" if os.environ.get("HF_HUB_OFFLINE") else ""
    return _check("Hugging Face", f"HF_HOME {home}{offline}", f"ok; HF_TOKEN {token}")
