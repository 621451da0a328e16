"""Tables and figures of the paper: a declared grid -> cells that resume -> ours beside the paper's."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ilrec_cli import artifacts
from ilrec_cli.console import Console
from ilrec_cli.settings import Reproduce
from ilrec_cli.stages import _cells, _grid, _hours, _recipe, _reproduced
from ilrec_cli.stages._cells import CellError, Workshop
from ilrec_cli.stages._grid import Cell, Table
from ilrec_cli.stages._recipe import Step

Invoke = Callable[[Sequence[str]], dict[str, Any]]


def run(config: Reproduce, command: Invoke) -> dict[str, Any]:
    """Make every table asked for, one after another; a cell that fails leaves the others going."""
    console = Console.of(config)
    for name in config.tables:
        _grid.declared(name, config)  # a wrong name is said before anything runs
    if config.dry_run:
        return {"plan": {name: _plan(name, config, command, console) for name in config.tables}}
    results = {name: _reproduce(name, config, command, console) for name in config.tables}
    failed = [f"{name}: {cell}" for name, each in results.items() for cell in each["failed"]]
    return {"tables": {name: each["path"] for name, each in results.items()}, "failed": failed}


def _reproduce(name: str, config: Reproduce, command: Invoke, console: Console) -> dict[str, Any]:
    table = _grid.declared(name, config)
    shop = _workshop(table, config, command, console)
    for data in table.datasets.values():  # whether items have titles is known once the data are there
        for step in _recipe.preprocess(data):
            _cells.prepare(step, shop)
    table = _filled(table, config)
    failed: dict[str, str] = {}
    wanted = _wanted(table, config)
    # The page has every finished cell, those of other rows too.
    done = {cell.name: found for cell in table.cells if cell.why is None and (found := _cells.finished(cell, shop))}
    for number, cell in enumerate(wanted, start=1):
        console.say(f"[{number}/{len(wanted)}] {cell.label}{': there' if cell.name in done else ''}")
        try:
            done[cell.name] = done.get(cell.name) or _cells.make(cell, shop)
        except CellError as error:
            failed[cell.name] = str(error)
            console.warn(f"{cell.label} failed: {error}")
    page = _reproduced.write(table, done, failed, shop.folder, config, console)
    for label, why in failed.items():
        console.say(f"failed: {label}: {why}")
    console.say(f"\n{table.grid['title']}, {len(done)} of {len(table.cells)} cells: {page}")
    console.say(_next(table, config, failed))
    return {"path": str(page), "failed": list(failed)}


def _workshop(table: Table, config: Reproduce, command: Invoke, console: Console) -> Workshop:
    """Where the table's cells are made, and by what."""
    folder = config.work / "reproduce" / f"{table.name}-{config.scale}"
    folder = folder if config.dataset is None else folder.with_name(f"{folder.name}-{_grid.slug(config.dataset)}")
    how = _cells.isolated(table.scale["launch"]) if table.scale.get("isolated") else _cells.in_process(command)
    alone = config.dataset is not None and config.raw_dir is not None and not (config.raw_dir / config.dataset).is_dir()
    return Workshop(config.work, folder, how, console.say, config.raw_dir, alone)


def _filled(table: Table, config: Reproduce) -> Table:
    """With the cells that the data which are there allow."""
    there = [path.parent.parent.name for path in config.work.glob("*/data/manifest.json")]
    used = [data["name"] for data in table.datasets.values() if data["name"] in there]
    untitled = [name for name in used if not _titles(config.work / name / "data")]
    return _grid.filled(table, config, untitled, there)


def _titles(data: Path) -> bool:
    return any(artifacts.read(data, "data").table("items")["title"].to_pylist())


def _wanted(table: Table, config: Reproduce) -> list[Cell]:
    """The cells to make."""
    return [cell for cell in table.cells if cell.why is None and (not config.rows or cell.row in config.rows)]


def _plan(name: str, config: Reproduce, command: Invoke, console: Console) -> dict[str, Any]:
    """Print what would be done, without doing it."""
    table = _filled(_grid.declared(name, config), config)
    shop = _workshop(table, config, command, console)
    asked = _wanted(table, config)
    states = {cell.name: _state(cell, shop) for cell in table.cells if cell in asked or cell.why is not None}
    steps = {cell.name: [] if states[cell.name] == "done" else _left(cell, shop) for cell in asked}
    every = list(dict.fromkeys(step for each in steps.values() for step in each))
    hours = _hours.shares(steps, table.scale, _hours.measured(config.work))
    console.say(f"{table.grid['title']}, scale {config.scale}: {table.scale['about']}\n")
    console.table(
        ["cell", "state", "time"],
        [[cell.label, states[cell.name], hours[cell.name].words if cell.name in hours else ""]
         for cell in table.cells if cell.name in states],
    )  # fmt: skip
    for cell in table.cells:
        if cell.why is not None:
            console.say(f"cannot be: {cell.label}: {cell.why}")
    if "BIGRec" in table.grid["paradigms"] and any(not _there(config, data) for data in table.datasets.values()):
        console.say("Not all data are there yet: whether their items have titles, which BIGRec needs, is not known.")
    total = sum(each.hours for each in hours.values())
    rough = any(each.rough for each in hours.values())
    console.say(
        f"\nAbout {_hours.words(total)} in all." + f" (rough): no finished cell of this kind in {config.work}" * rough
    )
    console.say()
    lines = [_cells.shown(step, shop, table.scale["launch"]) for step in every]
    console.say("\n".join([*lines, "", f"All of it, resumable: {_again(name, config, config.rows)}"]))
    return {"cells": states, "hours": total, "commands": lines}


def _left(cell: Cell, shop: Workshop) -> list[Step]:
    """A cell's commands whose folders are not there."""
    return [step for step in cell.steps if step.output is None or not _cells.present(step, cell, shop.work)]


def _there(config: Reproduce, data: dict[str, Any]) -> bool:
    return artifacts.exists(config.work / data["name"] / "data")


def _state(cell: Cell, shop: Workshop) -> str:
    if cell.why is not None:
        return "cannot be"
    return "done" if _cells.finished(cell, shop) else "missing"


def _again(name: str, config: Reproduce, rows: Sequence[str] = ()) -> str:
    """The command, for another table perhaps, whose rows are others."""
    given: dict[str, Any] = {
        "dataset": config.dataset,
        "raw_dir": config.raw_dir,
        "ids": config.ids,
        "titled": None if config.titled == Reproduce.titled else config.titled,
        "seeds": list(config.seeds),
        "rows": list(rows),
        "work": None if config.work == Reproduce.work else config.work,
    }
    return shlex.join(["ilrec", "reproduce", name, "--scale", config.scale, *_recipe.flags(given)])


def _next(table: Table, config: Reproduce, failed: dict[str, str]) -> str:
    if failed:
        return f"Next: {_again(table.name, config, config.rows)}   (does only what is missing)"
    left = [name for name in _grid.names() if name not in config.tables]
    return f"Next: {_again(left[0], config)}" if left else ""
