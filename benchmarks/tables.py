"""The tables of docs/benchmarks.md, from the JSON in results/.

    python benchmarks/tables.py

A test compares them with the page, so that no figure there is typed by hand.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
METRICS = ("hit@1", "hit@5", "hit@10", "hit@20", "ndcg@5", "ndcg@10", "ndcg@20", "mrr@10")
DEMO_MODELS = ("popularity", "sasrec", "sft", "ilrec")


def main() -> None:
    for title, table in tables().items():
        print(f"{title}\n\n{table}\n")


def tables() -> dict[str, str]:
    return {
        "instruments": instruments(), "demo": demo(), "preprocess": preprocess(), "growth": growth(), "startup": startup(),
    }  # fmt: skip


def instruments() -> str:
    """One row per model and seed: test metrics of all users, and how long training and evaluation took."""
    rows = []
    for path in sorted(RESULTS.glob("instruments-*.json"), key=_order):
        cell = json.loads(path.read_text())
        train = cell["train"]
        valid = train.get("best_valid_ndcg@10") or train["valid"]["ndcg@10"]
        minutes = train["command_seconds"] / 60
        rows.append([path.stem.removeprefix("instruments-"), *(f"{cell['test'][name]:.4f}" for name in METRICS),
                     f"{valid:.4f}", f"{minutes:.1f} min", f"{cell['evaluation_seconds']:.0f} s"])  # fmt: skip
    return _markdown(["model and seed", *METRICS, "valid ndcg@10", "training", "evaluation"], rows)


def demo() -> str:
    """Test NDCG@10 of every model of the demonstration, one row per seed."""
    rows = []
    for path in sorted(RESULTS.glob("demo-s*.json")):
        cell = json.loads(path.read_text())
        rows.append([cell["seed"], *(f"{cell['test'][name]['ndcg@10']:.4f}" for name in DEMO_MODELS),
                     f"{cell['seconds']:.0f} s"])  # fmt: skip
    return _markdown(["seed", *DEMO_MODELS, "all stages"], rows)


def startup() -> str:
    cell = json.loads((RESULTS / "startup.json").read_text())["median_seconds"]
    torch = cell["import torch"]
    return _markdown(["command", "seconds", "of importing torch"],
                     [[f"`{name}`", f"{value:.2f}", f"{value / torch:.2f}"] for name, value in cell.items()])  # fmt: skip


def preprocess() -> str:
    """The plain way beside ours, per task: medians of interleaved pairs, and peak memory."""
    cell = json.loads((RESULTS / "preprocess.json").read_text())
    tasks = {
        "core": f"5-core of {cell['rows']:,} integer rows in memory",
        "csv": f"{cell['rows']:,} rows of CSV with text ids to the artifact",
        "reviews": f"{cell['review_lines']:,} raw review lines (.json.gz) to a table",
    }
    rows = []
    for task, title in tasks.items():
        (plain, ours), found = cell[task]["seconds"].items(), cell[task]
        peaks = list(found["peak_gib"].values())
        rows.append([title, plain[0].split("_")[1], f"{plain[1]:.2f} s", f"{ours[1]:.2f} s", f"{found['times_as_fast']:.1f}",
                     f"{peaks[0]:.2f} GiB", f"{peaks[1]:.2f} GiB"])  # fmt: skip
    return _markdown(["task", "peer", "peer's time", "ilrec", "times as fast", "peer's peak", "ilrec's peak"], rows)


def growth() -> str:
    cell = json.loads((RESULTS / "preprocess-growth.json").read_text())
    rows = [
        [
            f"{int(key.split()[0]):,}{key.removeprefix(key.split()[0])}",
            f"{each['seconds']:.1f} s",
            f"{each['peak_gib']:.2f} GiB",
        ]
        for key, each in cell["cells"].items()
    ]
    exponents = cell["exponents"]
    return _markdown(["rows of CSV", "time", "peak memory"],
                     [*rows, ["growth exponent", f"{exponents['seconds']:.2f}", f"{exponents['peak_gib']:.2f}"]])  # fmt: skip


def _order(path: Path) -> tuple[int, str]:
    models = ("popularity", "sasrec", "sft", "ilrec")
    name = path.stem.removeprefix("instruments-").rsplit("-s", 1)[0]
    return (models.index(name) if name in models else len(models), path.stem)


def _markdown(head: list[str], rows: list[list[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


if __name__ == "__main__":
    main()
