"""The report's page: metrics as tables and bars, training as curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ilrec_cli.console import Console
from ilrec_cli.metrics import REPORTED
from ilrec_cli.stages import _html
from ilrec_cli.stages._html import GREY

BARS = ("hit@5", "hit@10", "ndcg@5", "ndcg@10")
TERMS = {"loss": "total loss", "cpo": "L_CPO (eq. 7)", "cpd": "L_CPD (eq. 8)", "crr": "L_CRR (eq. 11)",
         "ce": "cross-entropy", "valid_ndcg@10": "validation NDCG@10"}  # fmt: skip


def render(dataset: str, card: dict[str, Any], groups: dict[str, list[Any]], console: Console) -> str:
    """The page's text. Without matplotlib the figures are left out, and the page says so."""
    figures = _html.can_draw(console)
    # A model keeps its colour in every figure of the page.
    names = dict.fromkeys(row.name for rows in groups.values() for row in rows)
    colours = _html.colours(names)
    sections = []
    for title, rows in groups.items():
        best = {name: max(row.metrics.get(name, 0.0) for row in rows) for name in REPORTED}
        sections.append({"title": title, "rows": rows, "best": best, "bars": _bars(rows, colours) if figures else ""})
    trained = {row.name: row for rows in groups.values() for row in rows if row.log and row.is_lm}
    return _html.page(
        "report.html.jinja", dataset=dataset, statistics=card["statistics"], source=card["source"], sections=sections,
        metrics=REPORTED, curves=_curves(list(trained.values()), colours) if figures and trained else "", figures=figures,
    )  # fmt: skip


def _curves(rows: Sequence[Any], colours: dict[str, str]) -> str:
    """Total loss, every term and validation NDCG@10 over the steps: a panel each, a line per run."""
    names = [name for name in TERMS if any(name in line for row in rows for line in row.log)]
    figure, axes = _html.figure(rows=-(-len(names) // 3), columns=min(3, len(names)), height=2.5)
    for axis, name in zip(axes, names, strict=False):
        for row in rows:
            points = [(line["step"], line[name]) for line in row.log if name in line]
            if points:
                axis.plot(
                    *zip(*points, strict=True),
                    color=colours[row.name],
                    label=row.name,
                    marker="o" if "valid" in name else None,
                    markersize=3,
                )
        axis.set_title(TERMS[name], fontsize=10)
        axis.set_xlabel("step", fontsize=8)
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    figure.legend(*_html.legend(axes), loc="outside lower center", ncols=2, fontsize=8, frameon=False, labelcolor=GREY)
    return _html.svg(
        figure, f"Training curves of {', '.join(row.name for row in rows)}: {', '.join(TERMS[name] for name in names)}"
    )


def _bars(rows: Sequence[Any], colours: dict[str, str]) -> str:
    """Metrics as bars: a group per metric, a bar per model."""
    figure, (axis,) = _html.figure(rows=1, columns=1, height=3.2)
    _html.grouped_bars(axis, BARS, {row.name: [row.metrics.get(name, 0.0) for name in BARS] for row in rows}, colours)
    figure.legend(loc="outside lower center", ncols=min(3, len(rows)), fontsize=8, frameon=False, labelcolor=GREY)
    values = "; ".join(f"{row.name} {row.metrics['ndcg@10']:.4f}" for row in rows if "ndcg@10" in row.metrics)
    return _html.svg(figure, f"Bars of {', '.join(BARS)} for every model. NDCG@10: {values}")
