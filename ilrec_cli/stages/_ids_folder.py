"""Where a long assignment of identifiers keeps its place: a folder beside the result, gone when that is finished."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ilrec_cli import artifacts, checkpoint, folders
from ilrec_cli.errors import UserError
from ilrec_cli.interrupt import Stopped
from ilrec_cli.settings import BuildIds
from ilrec_cli.stages import _text_vectors

IDENTITY, LOG = "identity.json", "log.jsonl"


def checkpoints(target: Path) -> Path:
    """The folder of an unfinished build of `target`."""
    return target.with_name(f".{target.name}.checkpoints")


def has_progress(target: Path) -> bool:
    """Whether a build of `target` that was stopped has a checkpoint to go on from."""
    return _has_progress(checkpoints(target))


@contextmanager
def opened(target: Path, config: BuildIds, identity: dict[str, Any]) -> Iterator[Path]:
    """The folder to keep checkpoints in, locked; what it holds is this very build, to go on with.

    It goes when the block ends well, and when it fails before there is anything to go on with. A build that was stopped
    while it encoded text has no checkpoint yet, only vectors, which are kept by what they were made from.
    """
    folder = checkpoints(target)
    _check(folder, config, identity)
    made = [parent for parent in folder.parents if not parent.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder}: the folder for checkpoints cannot be made ({error.strerror}). Choose another --work"
        ) from error
    with folders.locked(folder, wait=False) as free:
        if not free:
            raise UserError(
                f"{target}: another process is making these identifiers. Wait for it, or choose another --name"
            )
        try:
            if not (config.resume and _has_progress(folder)):
                _clear(folder)
                artifacts.write_json(folder / IDENTITY, identity)
            yield folder
        except BaseException as error:
            if not _has_progress(folder):
                _remove(folder, made)
                if isinstance(error, KeyboardInterrupt) and _text_vectors.are_kept(folder.parent):
                    raise Stopped("stopped; the vectors made so far are kept. Go on with --resume") from error
            elif isinstance(error, KeyboardInterrupt):
                raise Stopped(f"stopped; the place is kept in {folder}. Go on with --resume") from error
            raise
        shutil.rmtree(folder)


def logger(folder: Path) -> Callable[[dict[str, Any]], None]:
    """A function that adds a row to the log; a row of an epoch that is there already replaces it and later ones."""
    path = folder / LOG
    rows = [json.loads(line) for line in _lines(path)]

    def log(row: dict[str, Any]) -> None:
        repeated = bool(rows) and rows[-1]["epoch"] >= row["epoch"]
        if repeated:
            rows[:] = [kept for kept in rows if kept["epoch"] < row["epoch"]]
            artifacts.write_text(path, "".join(json.dumps(kept) + "\n" for kept in rows))
        rows.append(row)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    return log


def read_log(folder: Path) -> str:
    """The whole log; nothing where the scheme wrote none."""
    return "".join(_lines(folder / LOG))


def _lines(path: Path) -> list[str]:
    """Whole lines: the last one may have been cut off by a kill."""
    if not path.is_file():
        return []
    return [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]


def _check(folder: Path, config: BuildIds, identity: dict[str, Any]) -> None:
    """Refuse to lose an unfinished build unasked, or to go on with another one."""
    progress = _has_progress(folder)
    if not config.resume:
        if progress and not config.overwrite:
            raise UserError(f"{folder} holds an unfinished build. Go on with --resume, or start again with --overwrite")
        return
    if (folder / IDENTITY).is_file():
        then = json.loads((folder / IDENTITY).read_text(encoding="utf-8"))
        checkpoint.refuse_other(then, identity)
    elif not _text_vectors.are_kept(folder.parent):
        raise UserError(f"--resume: there is no checkpoint in {folder}. Start without --resume")


def _has_progress(folder: Path) -> bool:
    return folder.is_dir() and any(path.name not in (IDENTITY, LOG) for path in folder.iterdir())


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _remove(folder: Path, made: list[Path]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for parent in made:
        with suppress(OSError):  # not empty: somebody else writes there
            parent.rmdir()
