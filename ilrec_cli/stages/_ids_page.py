"""The page of `ilrec ids report`: the table, use of codes, shape of the tree, purity against chance."""

from __future__ import annotations

from typing import Any

from ilrec_cli.console import Console
from ilrec_cli.stages import _html
from ilrec_cli.stages._html import GREY, Drawing

Found = dict[str, dict[str, Any]]  # name -> figures
PURITY = {
    "brand": "pairs of one prefix\nwith the same brand",
    "category": "pairs of one prefix\nwith the same category",
    "neighbours": "of the 10 nearest items,\nshare with the same prefix",
}


def render(dataset: str, found: Found, rows: list[tuple[str, list[str]]], console: Console) -> str:
    """The page's text. Without matplotlib the figures are left out, and the page says so."""
    figures = _html.can_draw(console)
    items = next(iter(found.values()))["items"]
    return _html.page("ids_report.html.jinja", dataset=dataset, items=items, names=list(found), rows=rows,
                      drawings=drawings(found) if figures else [], figures=figures)  # fmt: skip


def drawings(found: Found) -> list[Drawing]:
    """Use of codes, the tree and, where something is known of the items, what those of one prefix share."""
    colours = _html.colours(found)
    drawn = [
        Drawing(
            "ids-codes",
            "Left: codes that occur, of those the codebook has. Right: entropy of each level's codes, of the "
            "largest there could be: 100 % when all are used equally.",
            *_use(found, colours),
            title="Use of codes",
        ),
        Drawing(
            "ids-tree",
            "Left: prefixes there are at each depth. Right: children of a node at each depth, on average: where it "
            "is near 1, the token is decided by those before it.",
            *_tree(found, colours),
            title="The tree",
        ),
    ]
    if any(figures["purity"] for figures in found.values()):
        caption = "Dots: what was found. Bands: 95 % of random assignments with prefixes of the same sizes."
        title = "Do items that share a prefix share more?"
        drawn.append(Drawing("ids-purity", caption, *_purity(found, colours), title=title))
    return drawn


def _use(found: Found, colours: dict[str, str]) -> tuple[str, Any]:
    figure, axes = _html.figure(rows=1, columns=2, height=2.8)
    levels = [str(level + 1) for level in range(max(len(figures["levels"]) for figures in found.values()))]
    for axis, key, title in zip(axes, ("usage", "entropy"), ("codes used", "entropy of codes"), strict=True):
        values = {name: [_hundred(level[key]) for level in figures["levels"]] for name, figures in found.items()}
        _html.grouped_bars(axis, levels, values, colours)
        axis.set_title(f"{title}, %", fontsize=10)
        axis.set_xlabel("level", fontsize=8)
        axis.set_ylim(0, 105)
    return _finished(figure, axes, f"Use of codes per level of {', '.join(found)}")


def _tree(found: Found, colours: dict[str, str]) -> tuple[str, Any]:
    figure, axes = _html.figure(rows=1, columns=2, height=2.8)
    for name, figures in found.items():
        style = {"color": colours[name], "label": name, "marker": "o", "markersize": 4}
        counts = figures["prefixes_per_depth"]
        axes[0].plot(range(1, len(counts) + 1), counts, **style)
        axes[1].plot(range(len(counts)), [depth["mean_children"] for depth in figures["branching"]], **style)
    for axis, title in zip(axes, ("prefixes", "children of a node, mean"), strict=True):
        axis.set_title(title, fontsize=10)
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.get_minor_locator().set_params(subs=(2, 5))
        axis.yaxis.set_minor_formatter("{x:g}")
        axis.set_xlabel("depth", fontsize=8)
        axis.xaxis.get_major_locator().set_params(integer=True)
    return _finished(figure, axes, f"Prefixes per depth and children per node of {', '.join(found)}")


def _purity(found: Found, colours: dict[str, str]) -> tuple[str, Any]:
    kinds = [
        kind for kind in PURITY if any(row["of"] == kind for figures in found.values() for row in figures["purity"])
    ]
    figure, axes = _html.figure(rows=1, columns=len(kinds), height=3.0)
    for axis, kind in zip(axes, kinds, strict=True):
        for name, figures in found.items():
            rows = [row for row in figures["purity"] if row["of"] == kind]
            depth = [row["depth"] for row in rows]
            low, high = ([_hundred(row[key]) for row in rows] for key in ("low", "high"))
            axis.plot(
                depth, [_hundred(row["share"]) for row in rows], "o-", color=colours[name], label=name, markersize=4
            )
            axis.fill_between(depth, low, high, color=colours[name], alpha=0.3, linewidth=0)
            axis.plot(depth, [_hundred(row["control"]) for row in rows], ":", color=colours[name], linewidth=1)
        axis.set_title(f"{PURITY[kind]}, %", fontsize=9)
        axis.set_xlabel("depth", fontsize=8)
        axis.set_ylim(bottom=0)
        axis.xaxis.get_major_locator().set_params(integer=True)
    return _finished(figure, axes, f"Purity of prefixes per depth, against chance, of {', '.join(found)}")


def _finished(figure: Any, axes: list[Any], description: str) -> tuple[str, Any]:
    figure.legend(*_html.legend(axes), loc="outside lower center", ncols=3, fontsize=8, frameon=False, labelcolor=GREY)
    return description, figure


def _hundred(share: float | None) -> float | None:
    return None if share is None else 100 * share
