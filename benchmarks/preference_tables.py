"""Tables of record_table5.py and preference_step.py."""

from __future__ import annotations

import json
from typing import Any

from _common import RESULTS, markdown

NAMES = {
    "sft": "SFT",
    "ilrec": "ILRec",
    "s_dpo": "S-DPO",
    "rosepo": "RosePO",
    "sprec": "SPRec",
    "sprec-2e-4": "SPRec, pairs at 2e-4",
}
# ILRec's hours over each method's, Instrument, Table 5 of arXiv 2602.17410.
PAPER = {"s_dpo": 4.2 / 7.25, "rosepo": 4.2 / 6.6, "sprec": 4.2 / 7.8, "sprec-2e-4": 4.2 / 7.8}
STEPS = {"sft": "SFT", "ilrec": "ILRec", "s_dpo": "S-DPO, prompt shared", "s_dpo_separate": "S-DPO, six sequences",
         "dpo": "DPO", "rosepo": "RosePO", "sprec": "SPRec (its DPO)", "grpo": "GRPO"}  # fmt: skip
METRICS = ("hit@5", "hit@10", "ndcg@5", "ndcg@10")


def tables() -> dict[str, str]:
    """Those that have results."""
    cells = {path.stem.removeprefix("table5-"): json.loads(path.read_text()) for path in RESULTS.glob("table5-*.json")}
    found = {"table5": table5(cells)} if cells.keys() >= {"sft", "ilrec"} else {}
    step = RESULTS / "preference-step.json"
    return {**found, **({"preference_step": steps(json.loads(step.read_text()))} if step.exists() else {})}


def table5(cells: dict[str, Any]) -> str:
    """A row per method: what it took in all, ILRec's part of that here and in the paper, test metrics."""
    ours = _minutes(cells["ilrec"])
    rows = []
    for name in (name for name in NAMES if name in cells):
        total = cells[name]["cost"]["total"]
        paper = f"{PAPER[name]:.2f}" if name in PAPER else "-"
        rows.append([
            NAMES[name], f"{total['epochs']:.0f}", f"{_minutes(cells[name]):.1f} min", f"{total['making_seconds'] / 60:.1f} min",
            f"{total['generated']:,}", f"{(total['prompt_tokens'] + total['response_tokens']) / 1e6:.1f} M",
            f"{total['making_tokens'] / 1e6:.1f} M", f"{ours / _minutes(cells[name]):.2f}", paper,
            *(f"{cells[name]['test'][metric]:.4f}" for metric in METRICS),
        ])  # fmt: skip
    return markdown(["method", "epochs", "time", "of it making data", "generated", "tokens trained on", "tokens for data",
                     "ILRec / it", "paper", *METRICS], rows)  # fmt: skip


def _minutes(cell: dict[str, Any]) -> float:
    """Minutes of training and of making its data, without validation."""
    total = cell["cost"]["total"]
    return float(total["seconds"] - total["validation_seconds"]) / 60


def steps(found: dict[str, Any]) -> str:
    """A row per method, three columns per shape."""
    shapes = found["shapes"]
    head = ["step"] + [part for name in shapes for part in (name, "tokens / s", "of SFT's")]
    rows = []
    for name, shown in STEPS.items():
        row = [shown]
        for each in shapes.values():
            cell, sft = each["cells"][name], each["cells"]["sft"]
            row += [f"{1000 * cell['seconds']:.0f} ms", f"{cell['tokens_a_second']:,}",
                    f"{cell['tokens_a_second'] / sft['tokens_a_second']:.2f}"]  # fmt: skip
        rows.append(row)
    return markdown(head, rows)
