"""docs/ilrec-sweeps.png: what ILRec's difference to SFT depends on, from the sweep cells of record_ilrec.py.

    python benchmarks/ilrec_plots.py

One panel per setting; NDCG@10 of ILRec less the mean of SFT's seeds at the same depth, all trained for as long, with 95 %
intervals of the difference paired by user. One point of every panel is the same: ILRec's own value (`ilrec-depth=4`). Grey:
from the lowest to the highest seed of SFT, which says what a seed alone can do.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import ilrec_tables
from _common import RESULTS
from record_ilrec import SWEEPS, chosen

from ilrec_cli.methods import ilrec

SETTINGS = {"layers": "layers (auto: one, of four)", "ilrec-depth": "depth of the model", "lambda_cpd": "lambda", "beta": "beta (scale of logits)",
            "alpha": "alpha", "penalty": "penalty"}  # fmt: skip
BASE = ("ilrec-depth", "4")
TARGET = Path(__file__).parents[1] / "docs" / "ilrec-sweeps.png"


def main() -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cells = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("ilrec-*.json"))]
    sweeps = [cell for cell in cells if "sweep" in cell]
    figure, axes = pyplot.subplots(2, 3, figsize=(10, 5.5), sharey=True, layout="constrained")
    sft = [cell["test"]["ndcg@10"] for cell in ilrec_tables.at_point("sft-depth", "4", sweeps)]
    middle_of_sft = statistics.mean(sft)
    for axis, setting in zip(axes.flat, SETTINGS, strict=True):
        names, middle, below, above = series(setting, sweeps)
        axis.axhspan(min(sft) - middle_of_sft, max(sft) - middle_of_sft, color="0.9")
        axis.axhline(0, color="0.5", linewidth=1, linestyle="--")
        axis.errorbar(names, middle, yerr=[below, above], fmt="o", capsize=3)
        axis.set_xlabel(SETTINGS[setting])
        axis.margins(x=0.2)
    for axis in axes[:, 0]:
        axis.set_ylabel("NDCG@10, ILRec - SFT")
    figure.savefig(TARGET, dpi=110)
    print(TARGET)


def series(setting: str, sweeps: list[dict[str, Any]]) -> tuple[list[str], list[float], list[float], list[float]]:
    """Values in order, differences, and how far their intervals reach below and above."""
    points = {cell["value"]: (setting, cell["value"]) for cell in sweeps if cell["sweep"] == setting}
    if setting in SWEEPS:
        points[str({**vars(ilrec.Config()), **chosen()}[setting])] = BASE
    gaps = {value: ilrec_tables.sweep_gap(*points[value], sweeps) for value in sorted(points, key=ilrec_tables.place)}
    found = [(value, gap) for value, gap in gaps.items() if gap is not None]
    column = ilrec_tables.COMPARED.index("ndcg@10")
    middle = [float(gap.mean_C[column]) for _, gap in found]
    below = [float((gap.mean_C - gap.low_C)[column]) for _, gap in found]
    above = [float((gap.high_C - gap.mean_C)[column]) for _, gap in found]
    return [value for value, _ in found], middle, below, above


if __name__ == "__main__":
    main()
