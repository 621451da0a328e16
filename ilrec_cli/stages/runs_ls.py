"""Runs and collaborative models of a work folder -> a table of them all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ilrec_cli.console import Console
from ilrec_cli.errors import UserError
from ilrec_cli.settings import ListRuns
from ilrec_cli.stages import _registry
from ilrec_cli.stages._registry import Entry

METRICS = ("hit@10", "ndcg@10")


def run(config: ListRuns) -> dict[str, Any]:
    """Print a line for every evaluation of every run; return all their metrics."""
    console = Console.of(config)
    found = _registry.entries(config.work, config.dataset)
    if not found:
        where = config.work / (config.dataset or "")
        raise UserError(f"nothing was trained in {where}. Run: ilrec train-cf --help, ilrec train --help")
    known = {root: _registry.index(root) for root in {entry.root for entry in found}}
    rows = [_facts(entry, known[entry.root]) for entry in found]
    several = len(known) > 1
    console.table(
        [*(["dataset"] if several else []), "name", "made by", "ids", "status", "valid ndcg@10", "evaluation", *METRICS,
         "train s", "MB", "made"],
        [line if several else line[1:] for row in rows for line in _lines(row)],
    )  # fmt: skip
    return {"runs": rows}


def _facts(entry: Entry, known: dict[str, Path]) -> dict[str, Any]:
    trained, parents = _registry.training(entry), _registry.parents(entry, known)
    return {
        "dataset": entry.root.name, "name": entry.name, "kind": entry.kind, "made_by": entry.made_by,
        "ids": parents["ids"].removeprefix("ids/") if "ids" in parents else None, "seed": entry.settings.get("seed"),
        "status": entry.status, "note": _registry.state(entry), "training": trained,
        "evaluations": {name: result["metrics"] for name, result in _registry.evaluations(entry)},
        "bytes": _registry.size(entry.folder), "made": _registry.provenance(entry.train).get("time"),
        "path": str(entry.folder),
    }  # fmt: skip


def _lines(row: dict[str, Any]) -> list[list[Any]]:
    """A line for the run with its first evaluation, one for each further evaluation."""
    trained = row["training"]
    facts = [row["dataset"], row["name"], row["made_by"], row["ids"], row["note"], trained.get("valid_ndcg@10")]
    seconds = round(trained["seconds"]) if "seconds" in trained else None
    rest = [seconds, round(row["bytes"] / 1e6, 1), (row["made"] or "-")[:16].replace("T", " ")]
    evaluations = [[name, *(metrics.get(each) for each in METRICS)] for name, metrics in row["evaluations"].items()]
    first, *others = evaluations or [[None] * (1 + len(METRICS))]
    return [
        [*facts, *first, *rest[:1], f"{rest[1]:.1f}", rest[2]],
        *([*[""] * len(facts), *other, *[""] * len(rest)] for other in others),
    ]
