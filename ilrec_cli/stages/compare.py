"""Finished evaluations -> is the difference real: paired by user, with intervals, p-values and Holm's correction."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ilrec_cli import significance
from ilrec_cli.console import Console
from ilrec_cli.errors import UserError, abridged, nearest
from ilrec_cli.settings import Compare
from ilrec_cli.stages import _inputs, _protocol, _sides, _summary
from ilrec_cli.stages._sides import Side


def run(config: Compare) -> dict[str, Any]:
    """Print a table of every model against the first one; the same for programs."""
    console = Console.of(config)
    data = _inputs.read_data(config)
    ks = _ks(config.metrics)
    offers = _sides.choose(config, data)
    base, *others = (_sides.read(offer, data) for offer in offers)
    for other in others:
        _refuse_other(base, other, config, console)
    for offer in offers:
        _sides.require(offer, ks[-1], config)
    rows = [row for other in others for row in _compared(config, base, other, ks)]
    _correct(rows)
    console.say(_title(base, others))
    console.table(
        [
            "model",
            *(["slice"] if config.slices else []),
            "metric",
            base.name,
            "model's",
            "difference",
            "95 % interval",
            "p",
            "p (Holm)",
        ],
        [_shown(row, config.slices) for row in rows],
    )
    console.say(
        "\nPaired by user: intervals from a bootstrap, p from random signs of users' differences"
        + ("; Holm over the models" if len(others) > 1 else "")
    )
    return {"base": base.name, "protocol": base.rules, "events": len(base.event_E), "comparisons": rows}


def _ks(metrics: tuple[str, ...]) -> list[int]:
    """The list lengths that the metrics need."""
    known = [f"{prefix}{name}" for prefix in ("", "expected_") for name in ("hit", "ndcg", "mrr")] + ["recall"]
    for metric in metrics:
        name, _, k = metric.partition("@")
        if name not in known or not re.fullmatch("[1-9][0-9]{0,5}", k):
            raise UserError(
                f"--metrics {abridged(metric)}: expected NAME@K, with NAME of {', '.join(known)}.{nearest(name, known)}"
            )
    return sorted({int(metric.partition("@")[2]) for metric in metrics})


def _refuse_other(base: Side, other: Side, config: Compare, console: Console) -> None:
    """`UserError` where two numbers mean different things; pairs need the same events in any case."""
    differences = "; ".join(_protocol.differences(base.rules, other.rules))
    if not np.array_equal(base.event_E, other.event_E):
        raise UserError(
            f"'{base.name}' has {len(base.event_E):,} events, '{other.name}' {len(other.event_E):,}, not the same ones"
            f"{differences and f' ({differences})'}: nothing can be paired. Evaluate both on the same users"
        )
    if differences and not config.force:
        raise UserError(
            f"'{base.name}' and '{other.name}' were measured under different protocols: {differences}. "
            "Evaluate both alike, or compare them all the same with --force"
        )
    if differences:
        console.warn(f"'{base.name}' and '{other.name}' differ in {differences}")


def _compared(config: Compare, base: Side, other: Side, ks: list[int]) -> list[dict[str, Any]]:
    """A row for every slice and metric."""
    one, two = ({name: side.values(ks)[name] for name in config.metrics} for side in (base, other))
    judged = base.judged[0]
    sharing = np.maximum.reduce([each.sharing_E for each in (*base.judged, *other.judged)])
    parts = {**_summary.masks(judged._replace(sharing_E=sharing)), **base.parts} if config.slices else {}
    mask = _summary.labelled(parts, len(base.event_E))
    keys, sums = _summary.collect(one, judged.user_E, mask)
    _, others = _summary.collect(two, judged.user_E, mask)
    found = significance.difference(sums, others, config.seed)
    spread = _spread(other, config.metrics, ks)
    return [
        {"model": other.name, "slice": label or None, "events": int(mask[label].sum()), "metric": metric,
         "base": before, "value": after, "difference": mean, "interval": [low, high], "p": p,
         **({"seeds": spread[metric]} if not label and spread else {})}
        for (label, metric), before, after, mean, low, high, p in zip(
            keys, sums.means().tolist(), others.means().tolist(), *(column.tolist() for column in found), strict=True)
    ]  # fmt: skip


def _spread(side: Side, metrics: tuple[str, ...], ks: list[int]) -> Mapping[str, list[float]]:
    """The mean of every seed, where there are several."""
    seeds = side.seeds()
    if len(seeds) == 1:
        return {}
    each = [seed.values(ks) for seed in seeds]
    return {metric: [float(values[metric].mean()) for values in each] for metric in metrics}


def _correct(rows: list[dict[str, Any]]) -> None:
    """Holm's correction over the models, for each slice and metric."""
    for key in {(row["slice"], row["metric"]) for row in rows}:
        family = [row for row in rows if (row["slice"], row["metric"]) == key]
        for row, p in zip(family, significance.holm(np.array([row["p"] for row in family])).tolist(), strict=True):
            row["p_holm"] = p


def _title(base: Side, others: list[Side]) -> str:
    seeds = [f"{side.name}: mean of {len(side.seeds())} seeds" for side in (base, *others) if len(side.seeds()) > 1]
    users = len(np.unique(base.judged[0].user_E))
    return f"{base.protocol}: {len(base.event_E):,} events of {users:,} users" + "".join(f"; {each}" for each in seeds)


def _shown(row: dict[str, Any], slices: bool) -> list[Any]:
    low, high = row["interval"]
    return [row["model"], *([row["slice"] or "all"] if slices else []), row["metric"], row["base"], row["value"],
            row["difference"], f"{low:+.4f} to {high:+.4f}", row["p"], row["p_holm"]]  # fmt: skip
