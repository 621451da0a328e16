"""Where and with what a result was made: kept beside it, outside its digest."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

PACKAGES = ("ilrec", "torch", "transformers", "peft", "accelerate", "polars", "pyarrow", "scikit-learn", "faiss-cpu")


def provenance() -> dict[str, Any]:
    """Time, host, platform, the versions of the packages that matter, and which code of ours this is."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {package: _version(package) for package in PACKAGES},
        "source": source(),
        "commit": commit(),
    }


@cache
def source() -> str:
    """16 hex digits of this package's own code, which tell apart what one version number or commit cannot."""
    digest = hashlib.sha256()
    for path in sorted(HERE.rglob("*.py")):
        digest.update(f"{path.relative_to(HERE)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


@cache
def commit() -> str | None:
    """The commit that this code is of, "-dirty" where it was changed since; None outside a checkout."""
    try:
        if not _git("ls-files", Path(__file__).name):  # installed inside somebody else's repository
            return None
        return _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(HERE), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
