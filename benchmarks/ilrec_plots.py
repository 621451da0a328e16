"""docs/ilrec-sweeps.png: what ILRec's difference to SFT depends on, from the sweep cells of record_ilrec.py.

    python benchmarks/ilrec_plots.py

One panel per setting that has cells; NDCG@10 of ILRec less that of SFT of the same seed, depth and scale, both trained for
as long, with 95 % intervals of the difference paired by user. The square stands in every panel: it is one setting, ILRec's own. What
its other seeds give is drawn hollow.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ilrec_tables
from _common import RESULTS
from record_ilrec import own_value

SETTINGS = {"layers": "layers below the last", "ilrec-depth": "depth of the model", "ilrec-logits": "scale of the logits", "lambda_cpd": "lambda", "beta": "beta",
            "alpha": "alpha", "penalty": "penalty"}  # fmt: skip
NAMES = {"auto": "1 (auto)", "consecutive:2": "2", "consecutive:3": "3"}  # of values
STYLES = {"changed": ("o", "C0", "C0"), "own": ("s", "C1", "C1"), "seeds": ("s", "C1", "white")}  # marker, line, inside
TARGET = Path(__file__).parents[1] / "docs" / "ilrec-sweeps.png"


def main() -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cells = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("ilrec-*.json"))]
    sweeps = [cell for cell in cells if "sweep" in cell]
    panels = [setting for setting in SETTINGS if any(point[1] == "changed" for point in series(setting, sweeps))]
    figure, axes = pyplot.subplots(2, 4, figsize=(12, 6), sharey=True, layout="constrained")
    for axis, setting in zip(axes.flat, panels, strict=False):
        _draw(axis, series(setting, sweeps))
        axis.set_xlabel(SETTINGS[setting])
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    for axis in axes[:, 0]:
        axis.set_ylabel("NDCG@10, ILRec - SFT")
    title = "Two epochs, seed 0 (hollow: other seeds); square: the chosen setting; dashed: SFT; bars: 95 % over users"
    figure.suptitle(title, fontsize=10)
    figure.savefig(TARGET, dpi=110)
    print(TARGET)


def _draw(axis: Any, points: list[tuple[str, str, float, float, float]]) -> None:
    axis.axhline(0, color="0.5", linewidth=1, linestyle="--")
    names = list(dict.fromkeys(name for name, *_ in points))
    for number, (name, kind, middle, below, above) in enumerate(points):
        marker, line, inside = STYLES[kind]
        aside = 0.1 * (number - [point[0] for point in points].index(name))
        axis.errorbar(
            names.index(name) + aside, middle, yerr=[[below], [above]], fmt=marker, color=line, mfc=inside, capsize=3
        )
    axis.set_xticks(range(len(names)), [NAMES.get(name, name) for name in names])
    axis.set_xlim(-0.5, len(names) - 0.5)


def series(setting: str, sweeps: list[dict[str, Any]]) -> list[tuple[str, str, float, float, float]]:
    """Points by value and seed: the value, which of STYLES, the difference, how far its interval reaches below and above."""
    named = [(cell["value"], cell) for cell in sweeps if cell["sweep"] == setting]
    if setting != "ilrec-depth":
        named += [(own_value(setting), cell) for cell in sweeps if _is_own(cell)]
    column = ilrec_tables.COMPARED.index("ndcg@10")
    points = []
    for value, cell in sorted(named, key=lambda each: (ilrec_tables.place(each[0]), each[1]["seed"])):
        gap = ilrec_tables.sweep_gap(cell, sweeps)
        if gap is not None:
            kind = "changed" if not _is_own(cell) else "seeds" if cell["seed"] else "own"
            middle, low, high = (float(side[column]) for side in (gap.mean_C, gap.low_C, gap.high_C))
            points.append((value, kind, middle, middle - low, high - middle))
    return points


def _is_own(cell: dict[str, Any]) -> bool:
    return (cell["sweep"], cell["value"]) == ("ilrec-depth", ilrec_tables.BASE)


if __name__ == "__main__":
    main()
