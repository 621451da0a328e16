"""An evaluation that is under way: finished chunks of events as files of a hidden folder, until all are there.

A chunk is decided by the events' numbers alone, so it does not matter which process ranks it, or when.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ilrec_cli import artifacts, folders
from ilrec_cli.errors import UserError

CHUNK = 512  # events; a larger batch makes a larger chunk


def split(events: int, batch_size: int) -> list[slice]:
    """The chunks of so many events, in their order."""
    size = max(CHUNK, batch_size)
    return [slice(start, min(start + size, events)) for start in range(0, events, size)]


def scratch_of(folder: Path) -> Path:
    """Where the chunks of the evaluation `folder` wait."""
    return folder.with_name(f".{folder.name}.chunks")


@contextmanager
def opened(scratch: Path, identity: dict[str, Any], replaced: str | None) -> Iterator[None]:
    """Hold the folder; chunks of anything but this very evaluation are removed.

    `replaced` is the result that is to be made anew (None: there is none to replace). Then chunks count only if they were
    begun to replace that very result: what was ranked before somebody asked for it to be ranked again does not.
    """
    try:
        scratch.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{scratch}: the output folder cannot be made ({error.strerror}). Choose another --work"
        ) from error
    with folders.locked(scratch, wait=False) as free:
        if not free:
            raise UserError(f"{scratch.parent}: another process is at this evaluation. Wait for it")
        begun = _identity(scratch)
        begun_for = begun.pop("replaces", None)
        if begun != identity or replaced not in (None, begun_for):
            for file in scratch.iterdir():
                file.unlink()
            artifacts.write_json(scratch / "identity.json", identity | {"replaces": replaced})
        yield


def remove(scratch: Path) -> None:
    """The evaluation is finished."""
    shutil.rmtree(scratch, ignore_errors=True)


def save(scratch: Path, index: int, columns: Mapping[str, np.ndarray], seconds: float) -> None:
    """One chunk, in place only when complete, with its digest."""
    arrays = {name: np.ascontiguousarray(column) for name, column in columns.items()}
    path = _path(scratch, index)
    aside = path.with_suffix(f".tmp-{os.getpid()}")
    save_file(arrays, str(aside), metadata={"digest": _digest(arrays), "seconds": f"{seconds:.3f}"})
    os.replace(aside, path)


def load(scratch: Path, index: int) -> tuple[dict[str, np.ndarray], float] | None:
    """(columns, seconds) of a chunk; None where it is missing or not what was written."""
    try:
        with safe_open(str(_path(scratch, index)), framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in sorted(file.keys())}
            about = file.metadata()
    except (OSError, SafetensorError):
        return None
    return (arrays, float(about["seconds"])) if about.get("digest") == _digest(arrays) else None


def _path(scratch: Path, index: int) -> Path:
    return scratch / f"{index:06d}.safetensors"


def _identity(scratch: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((scratch / "identity.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # missing, no JSON, no object
        return {}


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()
