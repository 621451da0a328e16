"""docs/ilrec-sweeps.png: what ILRec's difference to SFT depends on, from the sweep cells of record_ilrec.py.

    python benchmarks/ilrec_plots.py

One panel per setting; NDCG@10 of ILRec less that of SFT of the same depth, both trained for as long, with 95 % intervals of
the difference paired by user. One point of every panel is the same: ILRec's own
value (`ilrec-depth=4`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ilrec_tables
from _common import RESULTS
from record_ilrec import SWEEPS, chosen

from ilrec_cli.methods import ilrec

SETTINGS = {"layers": "layers (auto: one, of four)", "ilrec-depth": "depth of the model", "lambda_cpd": "lambda", "beta": "beta (scale of logits)",
            "alpha": "alpha", "penalty": "penalty"}  # fmt: skip
TARGET = Path(__file__).parents[1] / "docs" / "ilrec-sweeps.png"


def main() -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cells = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("ilrec-*.json"))]
    sweeps = [cell for cell in cells if "sweep" in cell]
    figure, axes = pyplot.subplots(2, 3, figsize=(10, 5.5), sharey=True, layout="constrained")
    for axis, setting in zip(axes.flat, SETTINGS, strict=True):
        names, middle, below, above = series(setting, sweeps)
        axis.axhline(0, color="0.5", linewidth=1, linestyle="--")
        axis.errorbar(names, middle, yerr=[below, above], fmt="o", capsize=3)
        axis.set_xlabel(SETTINGS[setting])
    for axis in axes[:, 0]:
        axis.set_ylabel("NDCG@10, ILRec - SFT")
    figure.savefig(TARGET, dpi=110)
    print(TARGET)


def series(setting: str, sweeps: list[dict[str, Any]]) -> tuple[list[str], list[float], list[float], list[float]]:
    """Values in order, differences, and how far their intervals reach below and above."""
    points = {cell["value"]: cell for cell in sweeps if cell["sweep"] == setting}
    if setting in SWEEPS:
        own = str({**vars(ilrec.Config()), **chosen()}[setting])
        base = [cell for cell in sweeps if cell["sweep"] == "ilrec-depth" and cell["value"] == "4"]
        points |= {own: base[0]} if base else {}
    order = sorted(points, key=ilrec_tables.place)
    gaps = [ilrec_tables.sweep_gap(points[value], sweeps) for value in order]
    found = [(value, gap) for value, gap in zip(order, gaps, strict=True) if gap is not None]
    column = ilrec_tables.COMPARED.index("ndcg@10")
    middle = [float(gap.mean_C[column]) for _, gap in found]
    below = [float((gap.mean_C - gap.low_C)[column]) for _, gap in found]
    above = [float((gap.high_C - gap.mean_C)[column]) for _, gap in found]
    return [value for value, _ in found], middle, below, above


if __name__ == "__main__":
    main()
