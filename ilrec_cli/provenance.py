"""Where and with what a result was made: kept beside it, outside its digest."""

from __future__ import annotations

import importlib.metadata
import platform
from datetime import UTC, datetime
from typing import Any

PACKAGES = ("ilrec", "torch", "transformers", "peft", "accelerate", "polars", "pyarrow", "scikit-learn", "faiss-cpu")


def provenance() -> dict[str, Any]:
    """Time, host, platform and the versions of the packages that matter."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {package: _version(package) for package in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
