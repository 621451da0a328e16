"""Loading Hugging Face folders and names; whatever goes wrong becomes one line that says what to do."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ilrec_cli.errors import UserError

BLOCKS, BLOCK = 64, 1 << 16  # pieces of a weight file, and bytes of each, that its version is made of


@contextmanager
def explained(name: str, role: str) -> Iterator[None]:
    """Turn the failures of `from_pretrained(name)` inside the block into a `UserError`."""
    place = folder(name)
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") > 1
    if looks_like_path and place is None:
        raise UserError(f"{role} '{name}': no such folder")
    if place is not None and (place / "adapter_config.json").is_file():
        raise UserError(
            f"{role} '{name}': the folder holds an adapter. Merge it first, or name the model it belongs to"
        )
    if place is not None and not (place / "config.json").is_file():
        raise UserError(f"{role} '{name}': the folder holds no config.json, so it is no Hugging Face model")
    try:
        yield
    except Exception as error:  # what a file may hold has no end: transformers fails at it in as many ways
        if isinstance(error, UserError | MemoryError) or type(error).__name__ == "OutOfMemoryError":
            raise
        raise UserError(f"{role} '{name}': {_reason(name, error)}") from error


def tokenizer(name: str, *, local_files_only: bool = False) -> Any:
    """The tokenizer of a folder or name, for use inside `explained`.

    Where there is none, transformers makes an empty one of the right class, to which every text looks the same.
    """
    from transformers import AutoTokenizer

    found = AutoTokenizer.from_pretrained(name, local_files_only=local_files_only)
    if len(found) <= len(set(found.all_special_tokens)):
        raise ValueError("it has no tokenizer: files such as tokenizer.json are missing")
    return found


def folder(name: str) -> Path | None:
    """The folder of that name, if there is one; a name that none could have is no error."""
    try:
        found = Path(name).expanduser()
        return found if found.is_dir() else None
    except (OSError, RuntimeError, ValueError):  # too long; of a user who is not there; with a NUL
        return None


def version(name: str) -> str | None:
    """16 hex digits that tell a model's weights from others under the same name; None where they are not here yet.

    Of a folder, or of a copy in HF_HOME: its configuration, and of every weight file its size and BLOCKS pieces of it.
    A training changes all of them; an edit of a few weights may pass. Of 16 GB that takes no longer than of 16 MB.
    """
    place = _local(name)
    parts = [] if place is None else _weight_files(place)
    if place is None or not parts or not all(path.is_file() for path in parts):
        return None
    digest = hashlib.sha256()
    digest.update(json.dumps(_settings(place / "config.json"), sort_keys=True).encode())
    for path in parts:
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            for block in range(BLOCKS):
                file.seek(block * max(size - BLOCK, 0) // (BLOCKS - 1))
                digest.update(file.read(BLOCK))
    return digest.hexdigest()[:16]


def _local(name: str) -> Path | None:
    """The folder of that name, or the copy in HF_HOME."""
    from huggingface_hub import try_to_load_from_cache

    place = folder(name)
    if place is not None:
        return place
    try:
        found = try_to_load_from_cache(name, "config.json")
    except (OSError, ValueError):  # no name that the Hub could know
        return None
    return Path(found).parent if isinstance(found, str) else None


def _settings(file: Path) -> Any:
    """What config.json says, without what only tells which transformers wrote it; None where it says nothing."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return {key: found[key] for key in found if key != "transformers_version"} if isinstance(found, dict) else found


def _weight_files(place: Path) -> list[Path]:
    """The files that `from_pretrained` reads, there or not: model.safetensors, or the parts that its index names."""
    whole = place / "model.safetensors"
    index = None if whole.is_file() else _settings(place / "model.safetensors.index.json")
    named = index.get("weight_map") if isinstance(index, dict) else None
    return [place / name for name in sorted(map(str, set(named.values())))] if isinstance(named, dict) else [whole]


def no_bars() -> None:
    """For folders and saving: nothing is fetched, bars would flash between our own lines."""
    from transformers.utils import logging

    logging.disable_progress_bar()


@contextmanager
def without_reports() -> Iterator[None]:
    """Keep transformers' report of absent weights off the screen: `refuse_incomplete` says it in one line."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def refuse_incomplete(model: Any, found: dict[str, Any]) -> None:
    """`ValueError`, for use inside `explained`, where weights are absent: transformers draws them at random."""
    absent, odd = sorted(found["missing_keys"]), sorted(found["mismatched_keys"])
    if absent or odd:
        first, what = (absent[0], "are not in its files") if absent else (odd[0][0], "have another shape there")
        raise ValueError(
            f"{len(absent) + len(odd)} weights of a {type(model).__name__} {what}, such as {first}: an incomplete copy, "
            "an adapter, or a checkpoint of another model"
        )


def _reason(name: str, error: BaseException) -> str:
    kinds = {type(cause).__name__ for cause in _causes(error)}
    if "GatedRepoError" in kinds:
        return (
            f"access is restricted. Accept its terms at https://huggingface.co/{name}, then set HF_TOKEN to your token"
        )
    if kinds & {"RepositoryNotFoundError", "RevisionNotFoundError", "HFValidationError"}:
        return "no such folder here and no such model on the Hub (a private one needs HF_TOKEN)"
    if kinds & {"LocalEntryNotFoundError", "OfflineModeIsEnabled"}:
        cache = os.environ.get("HF_HOME", "~/.cache/huggingface")
        state = "offline mode is on (HF_HUB_OFFLINE)" if _offline() else "the Hub cannot be reached"
        return f"{state} and there is no copy in HF_HOME ({cache}). Fetch it where there is a network: hf download {name}; or give a folder"
    if "safetensors" in str(error):
        return f"it has no safetensors weights, and ilrec loads no pickles; convert it ({' '.join(str(error).split())[:120]})"
    if "trust_remote_code" in str(error):
        return "it needs code of its own, which ilrec does not run; choose an architecture that transformers has"
    said = " ".join(str(error).split())[:300]
    known = isinstance(error, OSError | ValueError | ImportError)
    return said if known else f"transformers cannot open it ({type(error).__name__}: {said}). Is its config.json whole?"


def _offline() -> bool:
    return any(
        os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__
