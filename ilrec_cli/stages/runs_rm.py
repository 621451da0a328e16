"""Runs and collaborative models -> gone, with their evaluations; never one that something else was made from."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from ilrec_cli import artifacts, folders
from ilrec_cli.console import Console
from ilrec_cli.errors import UserError
from ilrec_cli.settings import RemoveRuns
from ilrec_cli.stages import _registry
from ilrec_cli.stages._registry import Entry


def run(config: RemoveRuns) -> dict[str, Any]:
    """Check all of them, then remove all of them; without --yes only say which."""
    console = Console.of(config)
    found = {entry.folder: entry for entry in (_registry.find(config, selector) for selector in config.runs)}
    chosen = list(found.values())
    for entry in chosen:
        _refuse(entry, chosen)
    sizes = {entry.folder: _registry.size(entry.folder) for entry in chosen}
    names = [f"{_registry.label(folder)} ({size / 1e6:.1f} MB)" for folder, size in sizes.items()]
    if not config.yes:
        raise UserError(f"runs rm: nothing was removed. To remove {', '.join(names)}, add --yes")
    with ExitStack() as locks:
        for entry in chosen:
            _hold(entry, locks)
        for entry in chosen:
            _remove(entry, console)
    console.say(f"Removed {', '.join(names)}")
    return {"removed": [str(folder) for folder in sizes], "bytes": sum(sizes.values())}


def _refuse(entry: Entry, chosen: list[Entry]) -> None:
    """`UserError` where something that stays was made from it, or is being made."""
    going = {each.folder for each in chosen}
    digest = entry.manifest.get("digest")
    users = [
        _registry.label(path)
        for path in _registry.made_from(entry.root)
        if digest in artifacts.read_manifest(path)["parents"].values() and path.parent not in going
    ]
    # An unfinished training names its inputs; it could not go on without them.
    users += [
        f"{_registry.label(each.train)} ({each.status})"
        for each in _registry.entries(entry.root.parent, entry.root.name)
        if each.status != "finished"
        and each.folder not in going
        and each.settings.get(_registry.ROLES[entry.kind]) == entry.name
    ]
    if users:
        raise UserError(
            f"runs rm: {_registry.label(entry.folder)} stays, {', '.join(users)} was made from it. Remove that first, or "
            "with it in one command"
        )


def _hold(entry: Entry, locks: ExitStack) -> None:
    """Take the locks of training and of evaluations under way."""
    for folder in (entry.folder, *(entry.folder / "eval").glob(".*.chunks")):
        if not locks.enter_context(folders.locked(folder, wait=False)):
            raise UserError(f"runs rm: {folder} is locked: another process is at it. Wait for it; nothing was removed")


def _remove(entry: Entry, console: Console) -> None:
    kept = entry.status != "finished" and folders.old(entry.folder).exists()
    if not kept:
        folders.repair(entry.folder)  # of a run that replaced another, only the new one is left
    folders.remove(entry.folder)
    if kept:
        folders.repair(entry.folder)
        console.say(f"{_registry.label(entry.folder)}: the finished one that it was to replace is there again")
