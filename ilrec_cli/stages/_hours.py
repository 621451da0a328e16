"""How long commands take: measured in finished cells of the work folder, else a rough figure of the scale."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any, NamedTuple

from ilrec_cli.stages._recipe import Step


class Share(NamedTuple):
    """A cell's part of the time; `rough` where any of it was not measured."""

    hours: float
    rough: bool

    @property
    def words(self) -> str:
        return "" if not self.hours else words(self.hours) + " (rough)" * self.rough


def shares(steps: dict[str, list[Step]], scale: dict[str, Any], known: dict[str, float]) -> dict[str, Share]:
    """Time of every cell's commands; what several need counts for the first."""
    seen = set[Step]()
    found = {}
    for name, each in steps.items():
        new = [of(step, scale, known) for step in each if step not in seen]
        seen.update(each)
        found[name] = Share(sum(hours for hours, _ in new), any(rough for _, rough in new))
    return found


def measured(work: Path) -> dict[str, float]:
    """Kind of command -> hours, the median of all finished cells."""
    found: dict[str, list[float]] = {}
    for path in sorted((work / "reproduce").glob("*/cells/*.json")):
        try:
            seconds = json.loads(path.read_text(encoding="utf-8")).get("seconds", {})
        except ValueError:
            continue
        for kind, each in seconds.items():
            found.setdefault(kind, []).append(each / 3600)
    return {kind: statistics.median(each) for kind, each in found.items()}


def of(step: Step, scale: dict[str, Any], known: dict[str, float]) -> tuple[float, bool]:
    """(hours, whether they are the rough figure)."""
    if step.kind in known:
        return known[step.kind], False
    return float(scale["hours"][step.argv[0]]), True


def words(hours: float) -> str:
    """40 s, 12 min, 4.2 h."""
    if hours < 1 / 60:
        return f"{hours * 3600:.0f} s"
    return f"{hours * 60:.0f} min" if hours < 1 else f"{hours:.1f} h"
