"""Finished evaluations -> is the difference real: paired by user, with intervals, p-values and Holm's correction."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ilrec_cli import artifacts, significance
from ilrec_cli.artifacts import Artifact
from ilrec_cli.console import Console
from ilrec_cli.errors import UserError, nearest
from ilrec_cli.settings import Compare
from ilrec_cli.stages import _evaluation, _inputs, _protocol, _rankings, _summary
from ilrec_cli.stages._summary import Judged

DEFAULTS = ("full", "full-beam20-vocab")  # protocols of `ilrec evaluate` without flags
SEED_OF = r"-s\d+$"  # how the runs of one configuration are told apart


class Side(NamedTuple):
    """What is compared: one model, or the runs of one configuration whose values are averaged event by event."""

    name: str
    rules: dict[str, Any]
    event_E: np.ndarray
    judged: list[Judged]  # of each seed

    def values(self, ks: list[int]) -> dict[str, np.ndarray]:
        """Every metric of every event, the mean over seeds."""
        each = [_summary.values(judged, ks) for judged in self.judged]
        return {name: np.mean([values[name] for values in each], 0) for name in each[0]}


def run(config: Compare) -> dict[str, Any]:
    """Print a table of every model against the first one; the same for programs."""
    console = Console.of(config)
    data = _inputs.read_data(config)
    ks = _ks(config.metrics)
    base, *others = (_side(config, selector, data) for selector in config.models)
    for other in others:
        _refuse_other(base, other, config, console)
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
        if name not in known or not k.isdigit() or int(k) < 1:
            raise UserError(
                f"--metrics {metric}: expected NAME@K, with NAME of {', '.join(known)}.{nearest(name, known)}"
            )
    return sorted({int(metric.partition("@")[2]) for metric in metrics})


def _side(config: Compare, selector: str, data: Artifact) -> Side:
    """The evaluation that NAME or NAME:PROTOCOL stands for, or those of NAME-s0, NAME-s1, ..."""
    name, _, protocol = selector.partition(":")
    found = [_evaluated(config, path, protocol, data) for path in _models(config, name)]
    events, judged = zip(*(_rankings.judged(done, data) for done in found), strict=True)
    rules = found[0].json("metrics.json")["protocol"]
    for done, event_E in zip(found, events, strict=True):
        if done.json("metrics.json")["protocol"] != rules or not np.array_equal(event_E, events[0]):
            raise UserError(f"'{name}': its runs were evaluated under different protocols. Choose one: {name}:PROTOCOL")
    needed = max(_ks(config.metrics))
    for done in found:
        longest = max(done.json("metrics.json")["ks"])
        if needed > longest:
            raise UserError(f"{done.path}: lists of {longest}; metrics at {needed} need: ilrec evaluate --ks {needed}")
    return Side(selector, rules, events[0], list(judged))


def _models(config: Compare, name: str) -> list[Path]:
    """The folder of a model, or of every seed of a configuration."""
    if "/" not in name:
        for paths in _inputs.models(config).values():
            seeds = [path for known, path in paths.items() if re.sub(SEED_OF, "", known) == name and known != name]
            if seeds and name not in paths:
                return seeds
    return [_inputs.find_model(config, name)[0]]


def _evaluated(config: Compare, model: Path, protocol: str, data: Artifact) -> Artifact:
    """The model's evaluation under a protocol; without one, that of evaluate's defaults, or the only one."""
    name, manifest = model.parent.name, artifacts.read_manifest(model)
    folders = [path for path in sorted((model.parent / "eval").glob("[!.]*")) if artifacts.exists(path)]
    current = {"run": manifest["digest"], "data": data.digest}
    done = [artifacts.read(path, "eval") for path in folders]
    done = [each for each in done if each.manifest["parents"].items() >= current.items()]
    done = [each for each in done if each.json("metrics.json").get("version") == _evaluation.VERSION]
    if protocol:
        done = [each for each in done if each.name == protocol]
    else:
        done = _plainest([each for each in done if each.json("metrics.json")["protocol"]["split"] == config.split])
    if not done:
        what = f" under the protocol {protocol}" if protocol else ""
        raise UserError(f"'{name}' is not evaluated{what}. Run: ilrec evaluate {_inputs.flags(config)} --run {name}")
    if len(done) > 1:
        raise UserError(
            f"'{name}' is evaluated under several protocols: {', '.join(each.name for each in done)}. "
            f"Choose one: {name}:{done[0].name}"
        )
    return done[0]


def _plainest(done: list[Artifact]) -> list[Artifact]:
    """That of evaluate's defaults, or those over all users with the last layer, where there are such."""
    default = [each for each in done if each.name.removeprefix("test-").removeprefix("valid-") in DEFAULTS]
    if default:
        return default
    for special in ("limit_users", "exit_layer"):
        plain = [each for each in done if special not in each.json("metrics.json")["protocol"]]
        done = plain or done
    return done


def _refuse_other(base: Side, other: Side, config: Compare, console: Console) -> None:
    """`UserError` where two numbers mean different things; pairs need the same events in any case."""
    differences = _protocol.differences(base.rules, other.rules)
    if differences and not config.force:
        raise UserError(
            f"'{base.name}' and '{other.name}' were measured under different protocols: {'; '.join(differences)}. "
            "Evaluate both alike, or compare them all the same with --force"
        )
    if differences:
        console.warn(f"'{base.name}' and '{other.name}' differ in {'; '.join(differences)}")
    if not np.array_equal(base.event_E, other.event_E):
        raise UserError(
            f"'{base.name}' has {len(base.event_E):,} events, '{other.name}' {len(other.event_E):,}, not the same ones: "
            "nothing can be paired. Evaluate both on the same users"
        )


def _compared(config: Compare, base: Side, other: Side, ks: list[int]) -> list[dict[str, Any]]:
    """A row for every slice and metric."""
    one, two = ({name: side.values(ks)[name] for name in config.metrics} for side in (base, other))
    judged = base.judged[0]
    sharing = np.maximum.reduce([each.sharing_E for each in (*base.judged, *other.judged)])
    parts = _summary.masks(judged._replace(sharing_E=sharing)) if config.slices else {}
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
    if len(side.judged) == 1:
        return {}
    each = [_summary.values(judged, ks) for judged in side.judged]
    return {metric: [float(values[metric].mean()) for values in each] for metric in metrics}


def _correct(rows: list[dict[str, Any]]) -> None:
    """Holm's correction over the models, for each slice and metric."""
    for key in {(row["slice"], row["metric"]) for row in rows}:
        family = [row for row in rows if (row["slice"], row["metric"]) == key]
        for row, p in zip(family, significance.holm(np.array([row["p"] for row in family])).tolist(), strict=True):
            row["p_holm"] = p


def _title(base: Side, others: list[Side]) -> str:
    seeds = [f"{side.name}: mean of {len(side.judged)} seeds" for side in (base, *others) if len(side.judged) > 1]
    users = len(np.unique(base.judged[0].user_E))
    return f"{base.rules['split']} split, {len(base.event_E):,} events of {users:,} users" + "".join(
        f"; {each}" for each in seeds
    )


def _shown(row: dict[str, Any], slices: bool) -> list[Any]:
    low, high = row["interval"]
    return [row["model"], *([row["slice"] or "all"] if slices else []), row["metric"], row["base"], row["value"],
            row["difference"], f"{low:+.4f} to {high:+.4f}", row["p"], row["p_holm"]]  # fmt: skip
