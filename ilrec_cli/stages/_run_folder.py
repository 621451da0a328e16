"""The life of a run's folder: opened, trained in, finished; a finished run is kept until its successor is finished too."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from ilrec_cli import artifacts, checkpoint, folders
from ilrec_cli import config as configs
from ilrec_cli.artifacts import Artifact
from ilrec_cli.errors import UserError

# Part of what a run is, kept in its manifest, and not to be given: config.yaml has none of it.
NO_SETTINGS = ("wording", "backbone_version")


class Task(Protocol):
    """A training as asked for: what it makes, settings with `resume`, `overwrite`, `seed`, and what it stands on."""

    @property
    def kind(self) -> str: ...
    @property
    def settings(self) -> Any: ...
    @property
    def recorded(self) -> dict[str, Any]: ...
    @property
    def parents(self) -> dict[str, Artifact]: ...


def identity(task: Task) -> dict[str, Any]:
    """What decides a run's result: its settings and the versions of what it stands on."""
    return _identity(task.recorded, {role: parent.digest for role, parent in task.parents.items()})


def is_finished(train: Path, task: Task) -> bool:
    """True if this very run is there; refuses to touch another one, or an unfinished one, unasked."""
    run = train.parent
    if not run.exists() and folders.old(run).exists():  # a crash between setting the old run aside and starting anew
        os.rename(folders.old(run), run)
    if not artifacts.exists(train):
        if run.exists() and not _is_ours(train):
            raise UserError(f"{run} is there already and was not made by ilrec. Move it, or choose another --name")
        if has_checkpoint(train) and not (task.settings.resume or task.settings.overwrite):
            raise UserError(f"{train} holds an unfinished run. Go on with --resume, or start again with --overwrite")
        if task.settings.resume and not has_checkpoint(train):
            raise UserError(f"--resume: there is no checkpoint in {train / artifacts.SCRATCH}. Start without --resume")
        return False
    if task.settings.overwrite:
        return False
    found = artifacts.read(train, task.kind)
    key, now, then = checkpoint.first_difference(_identity(found.config, found.manifest["parents"]), identity(task))
    if not key:
        return True
    raise UserError(
        f"{train} holds a run with other settings: {key} is {now!r}, that run has {then!r}. Choose another --name, or "
        "--overwrite it"
    )


@contextmanager
def opened(train: Path, task: Task) -> Iterator[None]:
    """The folder to train in, locked. A run that fails before its first checkpoint leaves things as they were."""
    run, resume = train.parent, task.settings.resume
    if not resume and run.exists():
        with _alone(run):
            _set_aside(run, finished=artifacts.exists(train))
    try:
        train.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{train}: the output folder cannot be made ({error.strerror}). Choose another --work"
        ) from error
    try:
        with _alone(run):
            if not resume:
                inputs = {role: parent.name for role, parent in task.parents.items() if role != "data"}
                settings = {key: value for key, value in task.recorded.items() if key not in NO_SETTINGS}
                artifacts.write_text(train / "config.yaml", configs.to_yaml({**settings, **inputs}))
            yield
    except Exception:
        if not resume and not has_checkpoint(train):
            _give_up(run)
        raise


def finish(train: Path, task: Task) -> None:
    """Write the manifest of a folder that holds its model; checkpoints and the run that this one replaces go last."""
    artifacts.finish(train, kind=task.kind, config=task.recorded, seed=task.settings.seed, parents=task.parents)
    shutil.rmtree(train / artifacts.SCRATCH, ignore_errors=True)
    shutil.rmtree(folders.old(train.parent), ignore_errors=True)


def _identity(recorded: dict[str, Any], parents: dict[str, str]) -> dict[str, Any]:
    return {**recorded, **{f"version of --{role}": digest for role, digest in parents.items()}}


@contextmanager
def _alone(run: Path) -> Iterator[None]:
    with folders.locked(run, wait=False) as free:
        if not free:
            raise UserError(f"{run}: another process is training this run. Wait for it, or choose another --name")
        yield


def _set_aside(run: Path, *, finished: bool) -> None:
    """Keep a finished run as .NAME.old; remove an unfinished one of ours."""
    if finished:
        shutil.rmtree(folders.old(run), ignore_errors=True)
        os.rename(run, folders.old(run))
    else:
        shutil.rmtree(run)


def _give_up(run: Path) -> None:
    shutil.rmtree(run, ignore_errors=True)
    if folders.old(run).exists():
        os.rename(folders.old(run), run)
    with suppress(OSError):  # other runs are there
        run.parent.rmdir()


def has_checkpoint(train: Path) -> bool:
    """Whether a training that was stopped can go on."""
    return any((train / artifacts.SCRATCH / f"{name}.safetensors").is_file() for name in ("last", "previous"))


def base_version(train: Path) -> str | None:
    """The version of the weights that a run began with, finished or stopped; None where it is not known."""
    if artifacts.exists(train):
        return artifacts.read_manifest(train)["config"].get("backbone_version")
    newest = checkpoint.last(train)
    found = next((path for path in (newest, checkpoint.previous(newest)) if checkpoint.is_readable(path)), None)
    return None if found is None else checkpoint.read_state(found)["identity"].get("backbone_version")


def _is_ours(train: Path) -> bool:
    return (train / "config.yaml").is_file() or (train / artifacts.SCRATCH).is_dir() or not any(train.parent.iterdir())
