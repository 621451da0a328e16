"""Figures of the paper from our cells, as PNG and PDF: bars by row, or the loss of every layer over training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ilrec_cli.console import Console
from ilrec_cli.stages import _html
from ilrec_cli.stages._grid import Table
from ilrec_cli.stages._html import GREY


def draw(
    found: dict[str, Any], table: Table, done: dict[str, dict[str, Any]], folder: Path, console: Console
) -> list[str]:
    """The names of the files in `folder`; [] without matplotlib, which is said."""
    if not _html.can_draw(console):
        return []
    figure = _layers(table, done) if table.grid["figure"] == "layers" else _bars(found)
    names = [f"{table.name}.png", f"{table.name}.pdf"]
    for name in names:
        _html.save(figure, folder / name)
    return names


def _bars(found: dict[str, Any]) -> Any:
    """A panel for every paradigm and dataset, a group of bars for every metric."""
    sections = dict.fromkeys((row["paradigm"], row["dataset"]) for row in found["rows"])
    names = list(dict.fromkeys(row["row"] for row in found["rows"]))
    colours = _html.colours(names)
    sections = dict.fromkeys(key for key in sections if key[0] or len(sections) == 1)
    figure, axes = _html.figure(rows=1, columns=len(sections), height=3.2)
    for axis, (paradigm, dataset) in zip(axes, sections, strict=True):
        own = [row for row in found["rows"] if row["paradigm"] in ("", paradigm) and row["dataset"] == dataset]
        figures = {row["row"]: [row["figures"][metric] for metric in found["metrics"]] for row in own}
        values = {row: [each["ours"] for each in columns] for row, columns in figures.items()}
        _html.grouped_bars(
            axis, found["metrics"], values, colours, {row: list(map(_ends, figures[row])) for row in values}
        )
        axis.set_title(f"{paradigm}, {dataset}" if paradigm else dataset, fontsize=10)
    figure.legend(*_html.legend(axes), loc="outside lower center", ncols=4, fontsize=8, frameon=False, labelcolor=GREY)
    return figure


def _ends(figure: dict[str, Any]) -> list[float] | None:
    """One seed's interval; of several the mean and their deviation to both sides."""
    if figure["deviation"] is not None:
        return [figure["ours"] - figure["deviation"], figure["ours"] + figure["deviation"]]
    return figure["interval"]


def _layers(table: Table, done: dict[str, dict[str, Any]]) -> Any:
    """A panel for every cell, a line for every layer: L is the last, L-k the k-th before it."""
    cells = [cell for cell in table.cells if done.get(cell.name, {}).get("curves")]
    figure, axes = _html.grid(max(len(cells), 1), 3.2)
    for axis, cell in zip(axes, cells, strict=False):
        curves = {int(layer): curve for layer, curve in done[cell.name]["curves"].items()}
        depth = max(curves)
        shades = _html.shades(depth)
        for layer in sorted(curves, reverse=True):
            label = "L" if layer == depth else f"L-{depth - layer}"
            axis.plot(*zip(*curves[layer], strict=True), color=shades[layer], label=label, linewidth=1.2)
        axis.set_title(cell.label, fontsize=10)
        axis.set_xlabel("step", fontsize=8)
        axis.set_ylabel("cross-entropy", fontsize=8, color=GREY)
    figure.legend(*_html.legend(axes), loc="outside lower center", ncols=6, fontsize=8, frameon=False, labelcolor=GREY)
    return figure
