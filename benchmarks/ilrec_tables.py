"""Tables of record_ilrec.py's cells: rows of Table 3 with paired differences to SFT, sweeps of one setting each.

E test events, one a user, the same of every cell. Differences are paired by user and, where there are several seeds, of the
same seed; intervals are bootstrapped over users, p-values come from sign flips (`ilrec_cli.significance`). p-values are
not corrected for their number.
"""

from __future__ import annotations

import base64
import json
import statistics
import zlib
from typing import Any

import numpy as np
from _common import RESULTS, markdown
from record_ilrec import DEPTHS
from scipy import stats

from ilrec_cli import significance
from ilrec_cli.metrics import ranking_metrics

SHOWN = ("hit@1", "hit@5", "hit@10", "ndcg@5", "ndcg@10")
COMPARED = ("hit@10", "ndcg@10")
BASE = str(DEPTHS[0])  # layers of the model of all sweeps but that of the depth
ROWS = {"sft": "SFT", "ilrec": "ILRec", "wo-cpo": "w/o CPO", "wo-cpd": "w/o CPD", "wo-crr": "w/o CRR",
        "wo-cpo-cpd": "w/o CPO + CPD", "wo-cns": "w/o CNS", "fl-cpo": "FL + CPO", "il-cpo": "IL + CPO"}  # fmt: skip


def tables() -> dict[str, str]:
    """Those that have cells."""
    cells = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("ilrec-*.json"))]
    cells = [cell for cell in cells if "ranks" in cell]
    rows = {row: [cell for cell in cells if cell.get("row") == row] for row in ROWS}
    sweeps = [cell for cell in cells if "sweep" in cell]
    found = {}
    if rows["sft"]:
        found["ilrec_rows"] = markdown(
            ["row", "seeds", *SHOWN, "valid ndcg@10", *(f"{name} - SFT [95 %], p" for name in COMPARED), "training"],
            [_row(ROWS[row], cells_, rows["sft"]) for row, cells_ in rows.items() if cells_],
        )
        others = {row: cells_ for row, cells_ in rows.items() if cells_ and row != "sft"}
        seeds = [_seed_row(ROWS[row], cells_, rows["sft"], rows["ilrec"]) for row, cells_ in others.items()]
        head = ["row", "ndcg@10 - SFT, seed by seed", "mean ± 95 % (seeds)", "ndcg@10 - ILRec, same seeds [95 %], p"]
        if seeds:
            found["ilrec_seeds"] = markdown(head, seeds)
    if sweeps:
        found["ilrec_sweeps"] = _sweep_table(sweeps)
    return found


def values(cell: dict[str, Any]) -> np.ndarray:
    """value_EC of the compared metrics."""
    rank_E = np.frombuffer(zlib.decompress(base64.b64decode(cell["ranks"])), dtype=np.int8).astype(np.int64)
    found = ranking_metrics(rank_E, [10])
    return np.stack([found[name] for name in COMPARED], 1)


def gap(cells: list[dict[str, Any]], base: list[dict[str, Any]]) -> significance.Difference | None:
    """Of each user's mean over the seeds that both have."""
    pairs = [(one, other) for one in base for other in cells if one["seed"] == other["seed"]]
    if not pairs:
        return None
    below, above = (np.mean([values(pair[side]) for pair in pairs], axis=0) for side in (0, 1))
    count, group = np.ones((len(below), 1)), np.zeros(below.shape[1], dtype=int)
    return significance.difference(significance.Sums(below, count, group), significance.Sums(above, count, group))


def _row(name: str, cells: list[dict[str, Any]], base: list[dict[str, Any]]) -> list[str]:
    metrics = [_mean([cell["test"][metric] for cell in cells]) for metric in SHOWN]
    valid = _mean([cell["train"]["best_valid_ndcg@10"] for cell in cells])
    seconds = statistics.median(cell["train"]["seconds"] for cell in cells)
    differences = _differences(None if cells is base else gap(cells, base))
    return [name, str(len(cells)), *metrics, valid, *differences, f"{seconds / 60:.0f} min"]


def _seed_row(
    name: str, cells: list[dict[str, Any]], base: list[dict[str, Any]], ilrec: list[dict[str, Any]]
) -> list[str]:
    """Differences with the seed as the unit (Student's t), and what a row without a part of ILRec is beside ILRec."""
    of_sft = {cell["seed"]: cell["test"]["ndcg@10"] for cell in base}
    each = [cell["test"]["ndcg@10"] - of_sft[cell["seed"]] for cell in cells if cell["seed"] in of_sft]
    mean = f"{statistics.mean(each):+.4f}" if each else "-"
    if len(each) > 1:
        mean += f" ± {stats.t.ppf(0.975, len(each) - 1) * statistics.stdev(each) / len(each) ** 0.5:.4f}"
    beside = _differences(None if cells is ilrec or not ilrec else gap(cells, ilrec))
    return [name, ", ".join(f"{value:+.4f}" for value in each), mean, beside[COMPARED.index("ndcg@10")]]


def _differences(found: significance.Difference | None) -> list[str]:
    if found is None:
        return ["-"] * len(COMPARED)
    parts = zip(found.mean_C, found.low_C, found.high_C, found.p_C, strict=True)
    return [
        f"{mean:+.4f} [{low:+.4f}, {high:+.4f}], {'< 0.001' if p < 0.001 else f'{p:.3f}'}"
        for mean, low, high, p in parts
    ]


def _sweep_table(sweeps: list[dict[str, Any]]) -> str:
    """One row per value and seed: its figures, and the difference to SFT of the same seed, epochs, depth and scale."""
    lines = []
    for cell in sorted(sweeps, key=lambda cell: (cell["sweep"], place(cell["value"]), cell["seed"])):
        figures = [f"{cell['test'][name]:.4f}" for name in COMPARED]
        empty = f"{cell['statistics']['no_negatives']:.0%}" if cell.get("statistics") else "-"
        about = [f"`{cell['sweep']}`", cell["value"], str(cell["seed"])]
        lines.append([*about, *figures, *_differences(sweep_gap(cell, sweeps)), empty])
    head = ["setting", "value", "seed", *COMPARED, *(f"{name} - SFT [95 %], p" for name in COMPARED), "V_N empty"]
    return markdown(head, lines)


def sweep_gap(cell: dict[str, Any], sweeps: list[dict[str, Any]]) -> significance.Difference | None:
    """To SFT of the same seed, depth and scale of logits; none for SFT itself, or as long as that cell is not there."""
    row, _, setting = cell["sweep"].rpartition("-")
    wanted = (f"sft-{setting}", cell["value"]) if row else ("sft-depth", BASE)
    base = [each for each in sweeps if (each["sweep"], each["value"]) == wanted]
    return None if row == "sft" else gap([cell], base)


def place(value: str) -> tuple[float, str]:
    """Numbers by size, then words."""
    try:
        return float(value), ""
    except ValueError:
        return float("inf"), value


def _mean(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{spread}"
