"""A run's evaluations under each of its prompts -> their mean, as LC-Rec reports it, with the least and the most."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ilrec_cli import artifacts
from ilrec_cli.console import Console
from ilrec_cli.stages import _evaluation, _protocol
from ilrec_cli.stages._evaluation import Plan
from ilrec_cli.stages._workers import Workers

SHOWN = ("hit@1", "hit@5", "hit@10", "ndcg@5", "ndcg@10", "valid", "substring_hit@1", "substring_valid")


def mean(evaluated: Sequence[tuple[Plan, dict[str, Any]]], workers: Workers, console: Console) -> dict[str, Any]:
    """The first prompt's metrics.json with means in place of its metrics; the means are written beside the evaluations.

    An interval would have to know that the prompts share their users: there is none. Each prompt's evaluation has its own.
    """
    plan, first = evaluated[0]
    by_template = [found["metrics"] for _, found in evaluated]
    metrics = _means(by_template)
    spread = {
        name: [min(values[name] for values in by_template), max(values[name] for values in by_template)]
        for name in metrics
    }
    rules = _protocol.mean_of_templates(plan.rules, len(evaluated))
    result = {
        "version": _evaluation.VERSION, "protocol": rules, "events": first["events"], "metrics": metrics, "least_and_most": spread,
        "slices": _slices([found["slices"] for _, found in evaluated]),
        "by_template": {_protocol.folder(each.rules): found["metrics"] for each, found in evaluated},
        "parents": {role: parent.digest for role, parent in plan.parents.items()},
    }  # fmt: skip
    if workers.is_main:
        artifacts.write_json(plan.folder.with_name(f"{_protocol.folder(rules)}.json"), result)
    _show(plan.model.name, by_template, metrics, spread, console)
    return {key: value for key, value in first.items() if key not in ("intervals", "lists", "texts")} | result


def _means(every: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: sum(values[name] for values in every) / len(every) for name in every[0]}


def _slices(every: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The same of each slice: the prompts share their events."""
    return {
        kind: {
            part: {"events": each["events"], "metrics": _means([slices[kind][part]["metrics"] for slices in every])}
            for part, each in parts.items()
        }
        for kind, parts in every[0].items()
    }


def kept(train: Path, parents: Mapping[str, str]) -> dict[Path, dict[str, Any]]:
    """{file: what it says} of the means of this very run on these very data (`parents`: their versions)."""
    found = {
        path: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((train.parent / "eval").glob("[!.]*.json"))
    }
    return {path: each for path, each in found.items()
            if each.get("version") == _evaluation.VERSION and each["parents"].items() >= parents.items()}  # fmt: skip


def _show(
    name: str, by_template: list[dict[str, float]], metrics: dict[str, float], spread: dict[str, list[float]],
    console: Console,
) -> None:  # fmt: skip
    console.say(f"{name}, prompt by prompt:")
    shown = [metric for metric in SHOWN if metric in metrics]  # few beams answer for short lists alone
    rows: list[list[Any]] = [
        [str(number), *(values[metric] for metric in shown)] for number, values in enumerate(by_template)
    ]
    rows += [["mean", *(metrics[metric] for metric in shown)]]
    rows += [[word, *(spread[metric][place] for metric in shown)] for place, word in enumerate(("least", "most"))]
    console.table(["prompt", *shown], rows)
