"""Finished cells -> the table: ours with intervals beside the paper's and others', as Markdown, JSON and figures.

`results.json` holds everything that the page shows, so that other formats can be made from it alone.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ilrec_cli import artifacts
from ilrec_cli.console import Console
from ilrec_cli.settings import Reproduce
from ilrec_cli.stages import _grid, _protocol, _repro_figures
from ilrec_cli.stages._grid import Cell, Table

Done = dict[str, dict[str, Any]]
WHOLE = ("epochs", "sampling", "generated")  # shown without decimals
MARKS = {
    "S": "a secondary copy of a paper's number",
    "M": "computed from published logs",
    "G": "a project's own report",
}
OTHERS = ("hit@5", "hit@10", "ndcg@5", "ndcg@10")  # columns of elsewhere.yaml


def write(table: Table, done: Done, failed: dict[str, str], folder: Path, config: Reproduce, console: Console) -> Path:
    """Write results.json, report.md and figures; the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    found = results(table, done, failed, config)
    artifacts.write_json(folder / "results.json", found)
    pictures = _repro_figures.draw(found, table, done, folder, console) if "figure" in table.grid and done else []
    page = folder / "report.md"
    artifacts.write_text(page, markdown(found, pictures))
    return page


def results(table: Table, done: Done, failed: dict[str, str], config: Reproduce) -> dict[str, Any]:
    """All that is shown: rows with ours and the paper's, what failed or cannot be, lines on what differs."""
    used = [cell for cell in table.cells if cell.name in done]
    return {
        "table": table.name, "title": table.grid["title"], "scale": config.scale, "about": table.scale["about"],
        "metrics": table.grid["metrics"], "rows": rows(table, done), "cells": len(table.cells), "done": len(done),
        "failed": failed, "cannot_be": {cell.label: cell.why for cell in table.cells if cell.why is not None},
        "differs": _differences(table, used, done, config), "source": _grid.published()["source"],
        "elsewhere": _elsewhere(table, used),
    }  # fmt: skip


def rows(table: Table, done: Done) -> list[dict[str, Any]]:
    """A row of the table for every paradigm and dataset, its seeds together, in the order of the grid."""
    groups: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in table.cells:
        groups.setdefault((cell.row, cell.paradigm, cell.dataset), []).append(cell)
    found = []
    for (row, paradigm, dataset), cells in groups.items():
        there = [done[cell.name] for cell in cells if cell.name in done]
        paper = published(table, cells[0])
        metrics = [metric for metric in table.grid["metrics"] if metric != "share"]
        figures = {metric: _figure(metric, there) | {"paper": paper.get(metric)} for metric in metrics}
        found.append({"row": row, "paradigm": paradigm, "dataset": dataset, "column": cells[0].column, "figures": figures,
                      "why": cells[0].why})  # fmt: skip
    if "relative" in table.grid:
        _relate(found, table.grid["relative"])
    return found


def _relate(found: list[dict[str, Any]], base: str) -> None:
    """Add what the base row's hours are of each row's, in the same column; ours and the paper's."""
    hours = {(row["row"], row["paradigm"], row["dataset"]): row["figures"]["hours"] for row in found}
    for row in found:
        own, other = row["figures"]["hours"], hours[base, row["paradigm"], row["dataset"]]
        share = {key: other[key] / own[key] if own[key] and other[key] else None for key in ("ours", "paper")}
        row["figures"]["share"] = {**share, "deviation": None, "interval": None, "seeds": own["seeds"]}


def published(table: Table, cell: Cell) -> dict[str, Any]:
    """The paper's figures of a cell; {} where it has none."""
    node: Any = _grid.published().get(table.name, {}).get("rows", {})
    if not cell.paper or not node or cell.column not in table.grid["datasets"]:
        return {}
    for key in cell.paper:
        node = node[key]
    for key in (cell.paradigm, cell.column):
        if isinstance(node, dict) and key in node:
            node = node[key]
    if isinstance(node, float):
        return {"hit@10": node}
    return {} if any(isinstance(each, dict) for each in node.values()) else dict(node)


def markdown(found: dict[str, Any], pictures: Iterable[str] = ()) -> str:
    """The page."""
    lines = [
        f"# {found['title']}",
        "",
        f"Scale `{found['scale']}`: {found['about']}. {found['done']} of {found['cells']} cells.",
        "",
    ]
    lines += [f"![{found['title']}]({picture})\n" for picture in pictures if picture.endswith("png")]
    sections = dict.fromkeys((row["paradigm"], row["dataset"], row["column"]) for row in found["rows"])
    for paradigm, dataset, column in sections:
        own = [row for row in found["rows"] if (row["paradigm"], row["dataset"]) == (paradigm, dataset)]
        lines += [f"## {paradigm or 'Collaborative models'}, {dataset}", ""]
        lines += [_table(own, found["metrics"], column), ""]
    lines += ["## How to read it", ""]
    lines += [f"- {line}" for line in found["differs"]]
    if found["cannot_be"]:
        lines += ["", "## What cannot be", "", *(f"- {label}: {why}" for label, why in found["cannot_be"].items())]
    if found["failed"]:
        lines += ["", "## What failed", "", *(f"- {name}: {why}" for name, why in found["failed"].items())]
    if found["elsewhere"]:
        lines += ["", "## Published elsewhere, for data of these names", "", _others(found["elsewhere"])]
        lines += ["", *(f"{mark}: {what}." for mark, what in MARKS.items())]
    return "\n".join(lines) + "\n"


def shown(figure: dict[str, Any], metric: str) -> str:
    """Ours in a table: with the interval of one seed, or the deviation of several."""
    if figure["ours"] is None:
        return "-"
    text = _number(figure["ours"], metric)
    if figure["deviation"] is not None:
        return f"{text} ± {_number(figure['deviation'], metric)}"
    if figure["interval"]:
        low, high = (_number(bound, metric) for bound in figure["interval"])
        return f"{text} [{low}, {high}]"
    return text


def _figure(metric: str, there: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean over seeds, with its deviation; or one seed's figure with its bootstrap interval."""
    values = [each["metrics"][metric] for each in there if metric in each["metrics"]]
    single = there[0].get("intervals", {}).get(metric) if len(values) == 1 else None
    return {
        "ours": statistics.fmean(values) if len(values) > 1 else values[0] if values else None,
        "deviation": statistics.stdev(values) if len(values) > 1 else None, "seeds": len(values), "interval": single,
    }  # fmt: skip


def _table(own: list[dict[str, Any]], metrics: list[str], column: str) -> str:
    """Ours and the paper's, metric by metric; the paper's columns only where it has figures."""
    papers = [metric for metric in metrics if any(row["figures"][metric]["paper"] is not None for row in own)]
    head = [
        "",
        *(part for metric in metrics for part in ([metric, f"paper ({column})"] if metric in papers else [metric])),
    ]
    body = []
    for row in own:
        parts = [row["row"]]
        for metric in metrics:
            parts.append(shown(row["figures"][metric], metric) if row["why"] is None else "cannot be")
            parts += [_number(row["figures"][metric]["paper"], metric)] if metric in papers else []
        body.append(parts)
    return _markdown_table(head, body)


def _others(rows: list[dict[str, Any]]) -> str:
    body = [
        [row["dataset"], row["row"], *(_number(value, name) for name, value in zip(OTHERS, row["figures"], strict=True)),
         f"{row['source']} [{row['mark']}]; {row['about']}"]
        for row in rows
    ]  # fmt: skip
    return _markdown_table(["data", "row", *OTHERS, "source"], body)


def _markdown_table(head: list[str], body: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *body])


def _number(value: Any, metric: str) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if metric in WHOLE:
        return f"{value:,.0f}"
    return f"{value:.2f}" if metric == "share" or (metric == "hours" and value >= 1) else f"{value:.4f}"


def _differences(table: Table, used: list[Cell], done: Done, config: Reproduce) -> list[str]:
    """What sets ours apart from the paper's, a line each."""
    lines = [*table.scale.get("differs", ())] if config.dataset is None or config.scale != "tiny" else []
    lines += [f"Data: {config.dataset}."] if config.dataset is not None else []
    if own := table.scale.get("table"):
        lines.append(f"Trainings of this table have {', '.join(f'{key} {value}' for key, value in own.items())}.")
    if seeds := sorted({cell.seed for cell in used if cell.paradigm}):
        lines.append(f"Seeds of the language models: {', '.join(map(str, seeds))}.")
    missing = [name for name in table.grid["datasets"] if name not in {cell.column for cell in table.cells}]
    lines += [f"Not at this scale: {', '.join(missing)}."] if missing else []
    for dataset, column in dict.fromkeys((cell.dataset, cell.column) for cell in table.cells):
        if _grid.NAMES.get(dataset) != column:
            lines.append(
                f"{dataset} stands where the paper has {column}: figures beside one another are not comparable."
            )
    for cell in used:
        if cell.stands_in:
            backbone = table.grid["rows"][cell.row].get("backbone", table.grid.get("backbone", "Llama3.1-8B"))
            lines.append(f"{backbone}: its place is taken by {cell.stands_in}.")
        rules = done[cell.name]["protocol"]
        users = (
            f", {rules['limit_users']} users drawn by seed {rules['users_drawn_by_seed']}"
            if "limit_users" in rules
            else ""
        )
        kind = cell.paradigm or "Collaborative models"
        lines.append(f"{kind} on {cell.dataset}: {done[cell.name]['events']:,} {rules['split']} events{users}, "
                     f"{rules['candidates']}, {_protocol.words(rules)}.")  # fmt: skip
    if "figure" in table.grid:
        lines.append("The paper publishes this figure as a picture, without numbers: ours stand alone.")
    lines.append("Brackets: 95 % intervals, bootstrap over users, of one seed; ±: standard deviation over seeds.")
    return list(dict.fromkeys([*lines, *table.grid.get("notes", ())]))


def _elsewhere(table: Table, used: list[Cell]) -> list[dict[str, Any]]:
    """Rows of others for the datasets that were used or that the columns are of; in tables that ask for them."""
    if not table.grid.get("elsewhere"):
        return []
    wanted = {cell.column for cell in table.cells} | {cell.dataset for cell in used}
    return [
        {"source": source["source"], "mark": source["mark"], "about": source["about"], "dataset": dataset, "row": row,
         "figures": figures}
        for source in _grid.elsewhere() for dataset, each in source["datasets"].items() if dataset in wanted
        for row, figures in each.items()
    ]  # fmt: skip
