"""A report's figures: metrics as bars, slices as points, training as curves, identifiers as `ilrec ids report` draws them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ilrec_cli.stages import _html
from ilrec_cli.stages._html import GREY, Drawing
from ilrec_cli.stages._report_rows import Row

BARS = ("hit@5", "hit@10", "ndcg@5", "ndcg@10")
MOST_BARS = 12
TERMS = {"loss": "total loss", "cpo": "L_CPO (eq. 7)", "cpd": "L_CPD (eq. 8)", "crr": "L_CRR (eq. 11)",
         "ce": "cross-entropy", "valid_ndcg@10": "validation NDCG@10"}  # fmt: skip
NEGATIVES = {"negatives": "negatives a position", "no_negatives": "positions without any", "sibling_penalty": "penalty on siblings",
             "target_label": "soft label of the target", "target_alone": "target without rivals",
             "liked_negatives": "negatives liked more than the target", "negative_logits": "negatives with logit < 0",
             "layer_agreement": "layers that agree with the last"}  # fmt: skip
PROBED = "ce_layer_"
SLICES = {"target_popularity": "training interactions of the target", "history_length": "items before the target"}
Logs = Mapping[str, list[dict[str, Any]]]  # run -> its log
Colours = Mapping[str, str]


def bars(name: str, rows: Sequence[Row], colours: Colours) -> Drawing:
    """Metrics as bars with their intervals: a group per metric, a bar per model; of many models the best."""
    every, rows = len(rows), rows[-MOST_BARS:]  # rows are in ascending order, collaborative models first
    figure, (axis,) = _html.figure(rows=1, columns=1, height=3.2)
    heights = {row.label: [row.metrics.get(each) for each in BARS] for row in rows}
    ends = {row.label: [row.intervals.get(each) for each in BARS] for row in rows}
    _html.grouped_bars(axis, BARS, heights, colours, ends)
    _legend(figure, [axis])
    found = "; ".join(f"{row.label} {row.metrics['ndcg@10']:.4f}" for row in rows if "ndcg@10" in row.metrics)
    return Drawing(
        name,
        "Lines: 95 % intervals, bootstrap over users."
        + (f" The last {len(rows)} rows of {every}." if every > len(rows) else ""),
        f"Bars of {', '.join(BARS)} for every model. NDCG@10: {found}",
        figure,
    )


def slices(name: str, rows: Sequence[Row], colours: Colours) -> Drawing | None:
    """NDCG@10 by popularity of the target and by length of the history, with intervals."""
    kinds = [kind for kind in SLICES if any(len(row.slices.get(kind, {})) > 1 for row in rows)]
    if not kinds:
        return None
    figure, axes = _html.figure(rows=1, columns=len(kinds), height=3.0)
    for axis, kind in zip(axes, kinds, strict=True):
        parts = list(dict.fromkeys(part for row in rows for part in row.slices.get(kind, {})))
        for place, row in enumerate(rows):
            _points(axis, row.slices.get(kind, {}), parts, (place - (len(rows) - 1) / 2) * 0.6 / len(rows),
                    {"color": colours[row.label], "label": row.label})  # fmt: skip
        axis.set_xticks(range(len(parts)), parts)
        axis.set_title(f"NDCG@10 by {SLICES[kind]}", fontsize=10)
        axis.set_ylim(bottom=0)
    _legend(figure, axes)
    text = f"NDCG@10 of {', '.join(row.label for row in rows)} by {' and by '.join(SLICES[kind] for kind in kinds)}"
    return Drawing(name, "Points: means; lines: 95 % intervals. Few events make long lines.", text, figure)


def _points(axis: Any, found: Mapping[str, Any], parts: Sequence[str], shift: float, style: dict[str, Any]) -> None:
    places = [place for place, part in enumerate(parts) if "ndcg@10" in found.get(part, {}).get("metrics", {})]
    means = [found[parts[place]]["metrics"]["ndcg@10"] for place in places]
    axis.plot([place + shift for place in places], means, "o", markersize=4, **style)
    for place in places:
        low, high = found[parts[place]].get("intervals", {}).get("ndcg@10", (None, None))
        axis.plot([place + shift] * 2, [low, high], color=style["color"], linewidth=1.2)


def terms(logs: Logs, colours: Colours) -> Drawing | None:
    """Total loss, every term and validation NDCG@10 over the steps."""
    return _panels("loss-terms", logs, TERMS, colours, "Training curves")


def negatives(logs: Logs, colours: Colours) -> Drawing | None:
    """Statistics of the negatives and of the soft labels over the steps."""
    return _panels("negatives", logs, NEGATIVES, colours, "Statistics of the negatives")


def collaborative(logs: Logs, colours: Colours) -> Drawing | None:
    """Loss and validation of collaborative models over the epochs."""
    wanted = {"loss": "loss", "valid_ndcg@10": "validation NDCG@10"}
    return _panels("collaborative", logs, wanted, colours, "Training of the collaborative models", over="epoch")


def layers(logs: Logs) -> Drawing | None:
    """Cross-entropy of every probed layer over the steps (Figure 2): a panel per run, a line per layer."""
    probed = {run: _probed(log) for run, log in logs.items()}
    probed = {run: found for run, found in probed.items() if found}
    if not probed:
        return None
    figure, axes = _html.grid(len(probed), 3.0)
    shades = _html.shades(max(max(found) for found in probed.values()))
    for axis, (run, found) in zip(axes, probed.items(), strict=False):
        for layer, points in sorted(found.items()):
            axis.plot(*zip(*points, strict=True), color=shades[layer], label=f"layer {layer}")
        axis.set_title(f"{run}: cross-entropy by layer", fontsize=10)
        axis.set_xlabel("step", fontsize=8)
    _legend(figure, axes, columns=8)
    text = f"Cross-entropy of layers {', '.join(map(str, sorted({layer for each in probed.values() for layer in each})))} over the steps of {', '.join(probed)}"
    return Drawing("layers", "Dark: the first layers; light: the last ones.", text, figure)


def _probed(log: list[dict[str, Any]]) -> dict[int, list[tuple[int, float]]]:
    """Layer -> (step, cross-entropy) of every line that has it."""
    names = sorted({name for row in log for name in row if name.startswith(PROBED)})
    return {int(name.removeprefix(PROBED)): [(row["step"], row[name]) for row in log if name in row] for name in names}


def _panels(
    name: str, logs: Logs, wanted: Mapping[str, str], colours: Colours, what: str, over: str = "step"
) -> Drawing | None:
    """A panel per figure of the logs, a line per run; None where no log has any."""
    shown = [key for key in wanted if any(key in row for log in logs.values() for row in log)]
    if not shown:
        return None
    figure, axes = _html.grid(len(shown), 2.5)
    drawn: dict[str, None] = {}
    for axis, key in zip(axes, shown, strict=False):
        for run, log in logs.items():
            points = [(row[over], row[key]) for row in log if key in row]
            if points:
                marker = "o" if "valid" in key or len(points) == 1 else None
                axis.plot(*zip(*points, strict=True), color=colours[run], label=run, marker=marker, markersize=3)
                drawn[run] = None
        axis.set_title(wanted[key], fontsize=10)
        axis.set_xlabel(over, fontsize=8)
    _legend(figure, axes)
    return Drawing(name, "", f"{what} of {', '.join(drawn)}: {', '.join(wanted[key] for key in shown)}", figure)


def _legend(figure: Any, axes: Sequence[Any], columns: int = 4) -> None:
    handles, labels = _html.legend(axes)
    figure.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(labels)), fontsize=8, frameon=False,
                  labelcolor=GREY)  # fmt: skip
