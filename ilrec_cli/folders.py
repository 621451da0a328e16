"""Folders that are replaced as a whole: locks, set-aside copies, repair after a crash.

Locks are the system's (flock), on folders: they vanish with the process that holds them. Where a file system has none,
work goes on without.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ilrec_cli.errors import UserError


def plain_name(value: str, flag: str) -> str:
    """A name that becomes a folder: no path, nothing hidden. `UserError` names the flag."""
    if not value or value.startswith(".") or any(mark in value for mark in "/\\") or value != value.strip():
        raise UserError(f"{flag} is '{value}', expected a plain name: it becomes a folder")
    return value


@contextmanager
def locked(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Hold the lock of an existing folder; yields False if somebody else holds it and `wait` is off."""
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        yield True
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        held = True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            held = False
        except OSError:  # a file system without locks
            pass
        yield held
    finally:
        os.close(handle)


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """An empty folder beside `path` to write into; removed with what it needed if the block fails."""
    folder = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    with ExitStack() as stack:
        try:
            stack.enter_context(made(folder.parent))
            with locked(path.parent, wait=True):  # nobody takes the new folder for a leftover before it is locked
                _remove_leftovers(path)
                folder.mkdir()
                stack.enter_context(locked(folder, wait=True))
        except OSError as error:
            raise UserError(
                f"{path}: the output folder cannot be made ({error.strerror}). Choose another folder (--work, --output)"
            ) from error
        try:
            yield folder
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


@contextmanager
def made(folder: Path) -> Iterator[None]:
    """A folder that is there while the block runs; if the block fails, what had to be made for it is removed again."""
    new = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for each in new:
            with suppress(OSError):  # not empty: somebody else writes there
                each.rmdir()
        raise


def remove_leftovers(path: Path) -> None:
    """Remove what killed writers left beside `path`."""
    if path.parent.is_dir():
        with suppress(OSError), locked(path.parent, wait=True):
            _remove_leftovers(path)


def replace(new: Path, path: Path) -> None:
    """Put a complete folder in the place of another: at any moment one of the two is there, whole."""
    with locked(path.parent, wait=True):
        _repair(path)
        if path.exists():
            os.rename(path, old(path))
        os.rename(new, path)
        shutil.rmtree(old(path), ignore_errors=True)


def remove(path: Path) -> None:
    """Take a folder away as a whole: it is renamed first, so that a crash leaves no half of it under its name."""
    gone = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    with locked(path.parent, wait=True):
        _remove_leftovers(path)
        os.rename(path, gone)
        shutil.rmtree(gone)


def repair(path: Path) -> None:
    """Undo a replacement that was interrupted between its two renames."""
    if old(path).exists():
        with locked(path.parent, wait=True):
            _repair(path)


def old(path: Path) -> Path:
    """Where the folder that is being replaced stands meanwhile."""
    return path.with_name(f".{path.name}.old")


def _repair(path: Path) -> None:
    if not old(path).exists():
        return
    if path.exists():
        shutil.rmtree(old(path), ignore_errors=True)
    else:
        os.rename(old(path), path)


def _remove_leftovers(path: Path) -> None:
    """Folders of writers that were killed: nobody holds their lock. The parent's lock is held by the caller."""
    for leftover in path.parent.glob(f".{path.name}.tmp-*"):
        with suppress(OSError), locked(leftover, wait=False) as free:
            if free:
                shutil.rmtree(leftover, ignore_errors=True)
