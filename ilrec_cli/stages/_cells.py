"""Making cells: commands one after another, what is there already left out; a JSON file per finished cell.

A cell is finished if its file is there, was made by the same commands, and everything it stands on is still of the version
it was made with (or was removed since).
"""

from __future__ import annotations

import contextlib
import json
import shlex
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ilrec_cli import artifacts
from ilrec_cli.errors import UserError, one_line
from ilrec_cli.json_log import read_log
from ilrec_cli.provenance import provenance
from ilrec_cli.stages import _ids_folder, _run_folder
from ilrec_cli.stages._grid import Cell
from ilrec_cli.stages._recipe import Step

VERSION = 1
MAKES = ("preprocess", "build-ids", "train-cf", "train")  # commands that make a folder
Command = Callable[[Sequence[str], Path], dict[str, Any]]  # arguments, log -> what --json would print


class CellError(Exception):
    """A command failed; the log says how."""


@dataclass
class Workshop:
    """Where cells are made, and by what. `broken` are folders that could not be made in this call."""

    work: Path
    folder: Path  # WORK/reproduce/TABLE-SCALE
    command: Command
    say: Callable[[str], None]
    raw_dir: Path | None = None
    alone: bool = False  # --raw-dir holds the files of the one dataset itself
    broken: dict[str, str] = field(default_factory=dict)

    def file(self, cell: Cell) -> Path:
        return self.folder / "cells" / f"{cell.name}.json"

    def log(self, cell: Cell) -> Path:
        return self.folder / "logs" / f"{cell.name}.log"

    def arguments(self, step: Step) -> list[str]:
        """All of a command's arguments."""
        found = [*step.argv, "--work", str(self.work)]
        if step.files is not None and "--source" not in step.argv:
            raw = _raw(self.work / step.files) if self.raw_dir is None else self.raw_dir / step.files
            own = f"{step.files}/data" == step.output  # its files are found, or downloaded, without being named
            found += ["--raw-dir", str(self.raw_dir if self.alone else raw)] if self.raw_dir or not own else []
        return found


def finished(cell: Cell, shop: Workshop) -> dict[str, Any] | None:
    """What the cell's file says, if it is this very cell, made from what is there."""
    path = shop.file(cell)
    if not path.is_file():
        return None
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError:
        return None
    same = found.get("version") == VERSION and found.get("commands") == [list(step.argv) for step in cell.steps]
    return found if same and all(_is(shop.work / place, digest) for place, digest in found["parents"].items()) else None


def make(cell: Cell, shop: Workshop) -> dict[str, Any]:
    """Run what is missing of a cell's commands and write its file; `CellError` names the log."""
    log = shop.log(cell)
    log.parent.mkdir(parents=True, exist_ok=True)
    seconds: dict[str, float] = {}
    result: dict[str, Any] = {}
    for step in cell.steps:
        if step.output in shop.broken:
            raise CellError(shop.broken[step.output])
        if step.output is not None and present(step, cell, shop.work):
            continue
        resumed, started = _resumes(step, shop.work), time.perf_counter()
        try:
            result = _run(step, shop, log, resumed)
        except CellError as error:
            if step.output is not None:
                shop.broken[step.output] = str(error)
            raise
        if not resumed:
            seconds[step.kind] = time.perf_counter() - started
    artifacts.write_json(_made(shop.file(cell)), _record(cell, shop, result, seconds))
    found = finished(cell, shop)
    assert found is not None
    return found


def prepare(step: Step, shop: Workshop) -> None:
    """Run a command before all cells, unless its folder is there; if it fails, the cells that need it say so."""
    if artifacts.exists(shop.work / str(step.output)):
        return
    log = shop.folder / "logs" / f"{step.argv[0]}-{step.files}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        _run(step, shop, log, False)
    except CellError as error:
        shop.broken[str(step.output)] = str(error)


def present(step: Step, cell: Cell, work: Path) -> bool:
    """Whether a command's folder is there, made from what the cell's other folders now are."""
    path = work / str(step.output)
    if not artifacts.exists(path):
        return False
    return set(artifacts.read_manifest(path)["parents"].values()) <= set(_digests(cell, work).values()) | _named(
        cell, work
    )


def shown(step: Step, shop: Workshop, launch: Sequence[str]) -> str:
    """The command as one can paste it."""
    front = [*launch] if launch and step.argv[0] in ("train", "evaluate") else ["ilrec"]
    return shlex.join([*front, *shop.arguments(step)])


def in_process(command: Callable[[Sequence[str]], dict[str, Any]]) -> Command:
    """Commands in this process, what they print in the log."""

    def run(arguments: Sequence[str], log: Path) -> dict[str, Any]:
        with (
            log.open("a", encoding="utf-8") as file,
            contextlib.redirect_stdout(file),
            contextlib.redirect_stderr(file),
        ):
            return command(arguments)

    return run


def isolated(launch: Sequence[str]) -> Command:
    """Commands in processes of their own; trainings and evaluations of language models by the launcher."""

    def run(arguments: Sequence[str], log: Path) -> dict[str, Any]:
        launched = bool(launch) and arguments[0] in ("train", "evaluate")
        front = ["-m", "accelerate.commands.launch", *launch[2:]] if launched else ["-m", "ilrec_cli"]
        with log.open("a", encoding="utf-8") as file:
            before = file.tell()
            code = _ended(subprocess.Popen([sys.executable, *front, *arguments, "--json"], stdout=file, stderr=file))
        if code in (130, -2):
            raise KeyboardInterrupt
        with log.open(encoding="utf-8", errors="replace") as file:
            file.seek(before)
            lines = file.read().splitlines()
        if code:  # what ilrec said comes before what a launcher says of it
            said = [line for line in lines if line.startswith("error: ")] or lines or [""]
            raise CellError(f"exit code {code}: {said[-1].removeprefix('error: ')}")
        return dict(json.loads(next(line for line in reversed(lines) if line.startswith("{"))))

    return run


def _ended(process: subprocess.Popen[bytes]) -> int:
    """The exit code. Asked to stop, it asks the command and waits: a step of a large model and its checkpoint take time."""
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.terminate()  # Ctrl-C reached it as well, SIGTERM did not
        process.wait()
        raise


def _run(step: Step, shop: Workshop, log: Path, resumed: bool) -> dict[str, Any]:
    again = ["--resume"] if resumed else []
    if not again and step.argv[0] in MAKES[1:] and step.output and artifacts.exists(shop.work / step.output):
        again = ["--overwrite"]  # of other data than are there now
    arguments = [*shop.arguments(step), *again]
    with log.open("a", encoding="utf-8") as file:
        file.write(f"$ ilrec {shlex.join(arguments)}\n")
    shop.say(f"  {step.argv[0]} {step.name}".rstrip())
    try:
        return shop.command(arguments, log)
    except Exception as error:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"error: {error}\n" if isinstance(error, UserError) else traceback.format_exc())
        reason = str(error) if isinstance(error, UserError | CellError) else f"{type(error).__name__}: {error}"
        raise CellError(f"{step.argv[0]}: {one_line(reason)} (log: {log})") from error


def _resumes(step: Step, work: Path) -> bool:
    """Whether a command was stopped and must be told to go on; `evaluate` does so unasked."""
    if step.argv[0] not in MAKES[1:] or step.output is None:
        return False
    path = work / step.output
    begun = _ids_folder.has_progress if step.argv[0] == "build-ids" else _run_folder.has_checkpoint
    return not artifacts.exists(path) and begun(path)


def _record(cell: Cell, shop: Workshop, result: dict[str, Any], seconds: dict[str, float]) -> dict[str, Any]:
    """The cell's file: who it is, what it stands on, its figures."""
    (name,) = result["metrics"]
    model = shop.work / str(cell.steps[-2].output)
    return {
        "version": VERSION, "row": cell.row, "paradigm": cell.paradigm, "dataset": cell.dataset, "seed": cell.seed,
        "commands": [list(step.argv) for step in cell.steps], "parents": _digests(cell, shop.work),
        "events": result["events"], "protocol": result["protocol"][name],
        "metrics": {**result["metrics"][name], **_cost(model)}, "intervals": result.get("intervals", {}).get(name, {}),
        "curves": _curves(model), "seconds": seconds, "made": provenance(),
    }  # fmt: skip


def _cost(model: Path) -> dict[str, float]:
    """Hours, epochs, how often negatives were made, and generated answers of a language model, its start included."""
    path = model / "cost.json"
    if not path.is_file():
        return {}
    cost = json.loads(path.read_text(encoding="utf-8"))
    rows, total = [*cost["before"], *cost["phases"]], cost["total"]
    # Of SPRec's phases every second generates; those between them score, under the reference, what is there already.
    sampled = sum(row["generated"] > 0 for row in rows) or sum(row["making_seconds"] > 0 for row in rows)
    return {
        "hours": total["seconds"] / 3600,
        "epochs": total["epochs"],
        "sampling": sampled,
        "generated": total["generated"],
    }


def _curves(model: Path) -> dict[str, list[list[float]]]:
    """Cross-entropy of every probed layer over the steps: layer -> [[step, value], ...]."""
    found: dict[str, list[list[float]]] = {}
    for line in read_log(model / "log.jsonl"):
        for key, value in line.items():
            if key.startswith("ce_layer_"):
                found.setdefault(key.removeprefix("ce_layer_"), []).append([line["step"], value])
    return found


def _raw(folder: Path) -> Path:
    """Where a dataset's raw files lie: in `raw`, or, where they were downloaded, in the folder of an edition there."""
    raw = folder / "raw"
    editions = sorted(path for path in raw.glob("*") if path.is_dir())
    return editions[-1] if editions and not any(path.is_file() for path in raw.glob("*")) else raw


def _digests(cell: Cell, work: Path) -> dict[str, str]:
    """The versions of the folders that the cell's commands made."""
    paths = [step.output for step in cell.steps if step.output is not None]
    return {path: artifacts.read_manifest(work / path)["digest"] for path in paths if artifacts.exists(work / path)}


def _named(cell: Cell, work: Path) -> set[str]:
    """Versions of identifiers that were there before: of --ids."""
    paths = (work / cell.dataset / "ids").glob("[!.]*")
    return {artifacts.read_manifest(path)["digest"] for path in paths if artifacts.exists(path)}


def _is(path: Path, digest: str) -> bool:
    return not artifacts.exists(path) or artifacts.read_manifest(path)["digest"] == digest


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
