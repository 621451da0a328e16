"""The report as one HTML file: no network, no scripts; figures are drawn with matplotlib and stand inside as SVG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from ilrec_cli import __version__
from ilrec_cli.console import Console
from ilrec_cli.metrics import REPORTED

# Okabe and Ito's palette: told apart with any common form of colour blindness, on white and on black.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#8C8C8C", "#B8A900")
GREY = "#7d8590"  # readable on white and on black
BARS = ("hit@5", "hit@10", "ndcg@5", "ndcg@10")
TERMS = {"loss": "total loss", "cpo": "L_CPO (eq. 7)", "cpd": "L_CPD (eq. 8)", "crr": "L_CRR (eq. 11)",
         "ce": "cross-entropy", "valid_ndcg@10": "validation NDCG@10"}  # fmt: skip


def render(dataset: str, card: dict[str, Any], groups: dict[str, list[Any]], console: Console) -> str:
    """The page's text. Without matplotlib the figures are left out, and the page says so."""
    from jinja2 import Environment, FileSystemLoader, select_autoescape

    try:
        import matplotlib  # noqa: F401

        figures = True
    except ImportError:
        figures = False
        console.warn("the report has no figures: pip install 'ilrec[plots]'")
    # A model keeps its colour in every figure of the page.
    names = dict.fromkeys(row.name for rows in groups.values() for row in rows)
    colours = dict(zip(names, cycle(COLOURS), strict=False))
    sections = []
    for title, rows in groups.items():
        best = {name: max(row.metrics[name] for row in rows) for name in REPORTED}
        sections.append({"title": title, "rows": rows, "best": best, "bars": _bars(rows, colours) if figures else ""})
    trained = {row.name: row for rows in groups.values() for row in rows if row.log and row.is_lm}
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=select_autoescape(default=True), trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("report.html.jinja").render(
        dataset=dataset, statistics=card["statistics"], source=card["source"], sections=sections, metrics=REPORTED,
        curves=_curves(list(trained.values()), colours) if figures and trained else "", figures=figures, version=__version__,
    )  # fmt: skip


def _curves(rows: Sequence[Any], colours: dict[str, str]) -> str:
    """Total loss, every term and validation NDCG@10 over the steps: a panel each, a line per run."""
    names = [name for name in TERMS if any(name in line for row in rows for line in row.log)]
    figure, axes = _figure(rows=-(-len(names) // 3), columns=min(3, len(names)), height=2.5)
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
    figure.legend(*_legend(axes), loc="outside lower center", ncols=2, fontsize=8, frameon=False, labelcolor=GREY)
    return _svg(
        figure, f"Training curves of {', '.join(row.name for row in rows)}: {', '.join(TERMS[name] for name in names)}"
    )


def _bars(rows: Sequence[Any], colours: dict[str, str]) -> str:
    """Metrics as bars: a group per metric, a bar per model."""
    figure, (axis,) = _figure(rows=1, columns=1, height=3.2)
    width = 0.8 / len(rows)
    for index, row in enumerate(rows):
        places = [place + (index - (len(rows) - 1) / 2) * width for place in range(len(BARS))]
        axis.bar(places, [row.metrics[name] for name in BARS], width * 0.92, color=colours[row.name], label=row.name)
    axis.set_xticks(range(len(BARS)), BARS, fontsize=9)
    figure.legend(loc="outside lower center", ncols=min(3, len(rows)), fontsize=8, frameon=False, labelcolor=GREY)
    values = "; ".join(f"{row.name} {row.metrics['ndcg@10']:.4f}" for row in rows)
    return _svg(figure, f"Bars of {', '.join(BARS)} for every model. NDCG@10: {values}")


def _figure(*, rows: int, columns: int, height: float) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure  # without pyplot: no global state, no display

    figure = Figure(figsize=(9, height * rows + 0.5), layout="constrained")
    axes = [figure.add_subplot(rows, columns, number + 1) for number in range(rows * columns)]
    for axis in axes:
        axis.set_facecolor("none")
        axis.tick_params(colors=GREY, labelsize=8)
        axis.grid(axis="y", color=GREY, alpha=0.25, linewidth=0.6)
        axis.title.set_color(GREY)
        axis.xaxis.label.set_color(GREY)
        for side, spine in axis.spines.items():
            spine.set_color(GREY)
            spine.set_visible(side in ("left", "bottom"))
    return figure, axes


def _legend(axes: Sequence[Any]) -> tuple[list[Any], list[str]]:
    """Every label once, whichever panel has it."""
    found: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return list(found.values()), list(found)


def _svg(figure: Any, description: str) -> str:
    """Inline SVG that scales with the page, with a text for those who cannot see it."""
    import matplotlib
    from markupsafe import Markup, escape

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "ilrec", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = drawing.replace("<svg ", f'<svg role="img" aria-label="{escape(description)}" ', 1)
    return Markup(drawing)
