"""Trained models -> full-ranking metrics on held-out events, one folder per protocol."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from ilrec_cli import artifacts, devices
from ilrec_cli.artifacts import Artifact
from ilrec_cli.console import Console
from ilrec_cli.errors import UserError
from ilrec_cli.metrics import KS, REPORTED
from ilrec_cli.ranking import LISTED
from ilrec_cli.schemas import KINDS
from ilrec_cli.settings import Evaluate
from ilrec_cli.stages import _candidates, _chunks, _evaluation, _inputs, _models, _protocol, _rankers, _workers
from ilrec_cli.stages._candidate_sets import Sets, offered_in
from ilrec_cli.stages._evaluation import Plan
from ilrec_cli.stages._workers import Workers

BY_LAYER = ("hit@1", "hit@10", "ndcg@10")
Found = dict[str, Any]


def run(config: Evaluate) -> dict[str, Any]:
    """Evaluate every chosen run and collaborative model; write its eval/PROTOCOL folder; print the metrics."""
    console, workers = Console.of(config), _workers.join(config.device)
    devices.keep_freed_memory(workers.device)
    data = _inputs.read_data(config)
    _tell_left_out(config, data, console)
    results: dict[str, Found] = {}
    more: dict[str, dict[str, Any]] = {"exit_layers": {}, "exact": {}}
    for path, kind in _chosen(config, data, console):
        model = artifacts.read(path, kind)
        model.require_parent(data, "data")
        label = model.name if model.name not in results else f"{model.name} ({KINDS[kind][0]})"
        if kind == "cf":
            results[label] = _collaborative(config, model, data, workers, console)
            continue
        results[label], layers, exact = _language(config, model, data, workers, console)
        more["exit_layers"] |= {label: layers} if layers else {}
        more["exact"] |= {label: exact} if exact else {}
    events = next(iter(results.values()))["events"]
    _tell(config, results, more["exact"], console)
    metrics = {name: found["metrics"] for name, found in results.items()}
    return {"events": events, "metrics": metrics, **{key: each for key, each in more.items() if each}}


def _chosen(config: Evaluate, data: Artifact, console: Console) -> list[tuple[Path, str]]:
    """(folder, kind) of everything to evaluate: what --run names, or all that was made from these data."""
    if config.run:
        return [_inputs.find_model(config, selector) for selector in config.run]
    every = [(path, kind) for kind, paths in _inputs.models(config).items() for path in paths.values()]
    fitting = [entry for entry in every if artifacts.read_manifest(entry[0])["parents"].get("data") == data.digest]
    if fitting and len(fitting) < len(every):
        console.warn(
            f"{len(every) - len(fitting)} models were made from another version of the data; they are left out"
        )
    if not fitting:
        stale = f" ({len(every)} models were made from another version of the data)" if every else ""
        raise UserError(
            f"nothing to evaluate{stale} in {_inputs.dataset_dir(config)}. Run: ilrec train {_inputs.flags(config)}"
        )
    suited = [(path, kind) for path, kind in fitting if kind == "cf" or _candidates.suits(path, config.candidates)]
    if len(suited) < len(fitting):
        how = f"--candidates {config.candidates}" if config.candidates else "the full catalogue"
        console.warn(f"{len(fitting) - len(suited)} runs were not trained for {how}; they are left out")
    if not suited:
        raise UserError(f"nothing is left to evaluate in {_inputs.dataset_dir(config)}. Choose how with --candidates")
    return suited


def _tell_left_out(config: Evaluate, data: Artifact, console: Console) -> None:
    """Events without candidates are not ranked among candidates; how many there are."""
    if config.candidates is not None:
        _, user, end = _inputs.events(data, config.split)
        missing = int((~Sets.of(data).has(user, end)).sum())
        if missing:
            console.warn(f"{missing:,} of {len(user):,} {config.split} events have no candidates; they are left out")


def _refuse(config: Evaluate, model: Artifact, ids: Artifact) -> None:
    """What a model, or a search for few items, cannot answer."""
    if config.candidates == "generate":
        _candidates.refuse_writing(model, ids)
    if config.candidates is not None:
        return
    _models.trained_layout(model)
    if config.seen_items == "removed":
        raise UserError(
            f"--seen-items removed: '{model.name}' is a language model, whose search finds {config.beams} items, seen ones "
            "among them. Choose collaborative models with --run"
        )
    longest = max(config.ks, default=0)
    if longest > max(config.beams, LISTED):
        raise UserError(
            f"--ks {longest}: the search for '{model.name}' has {config.beams} beams. Raise --beams to {longest}"
        )


def _collaborative(config: Evaluate, model: Artifact, data: Artifact, workers: Workers, console: Console) -> Found:
    offered = offered_in(data, config.candidates)
    rules = _protocol.of_cf(
        config.split, limit_users=config.limit_users, seed=config.seed, seen_items=config.seen_items, candidates=offered
    )
    open_cf = _rankers.open_cf if offered is None else _candidates.open_cf
    plan = Plan(
        model, data, rules, "cf", _ks(config), _chunks.CHUNK, config.overwrite, {"model": model.config["model"]}
    )
    return _evaluation.run(plan, lambda: open_cf(plan, workers.device), workers, console)


def _language(
    config: Evaluate, model: Artifact, data: Artifact, workers: Workers, console: Console
) -> tuple[Found, list[Found], Found]:
    """(the last layer's or the chosen layer's metrics, a row for each of --exit-layer all, beams against all scores)."""
    ids = _inputs.ids_of_run(config, model, data)
    _refuse(config, model, ids)
    offered = offered_in(data, config.candidates)
    open_lm = _rankers.open_lm if offered is None else _candidates.open_lm
    config = replace(config, normalize=_models.trained_scope(model, config.normalize))

    def evaluated(rules: dict[str, Any], searched: Path | None = None) -> tuple[Plan, Found]:
        plan = Plan(model, data, rules, "run", _ks(config), config.batch_size, config.overwrite,
                    {"method": model.config["method"]}, searched)  # fmt: skip
        return plan, _evaluation.run(plan, lambda: open_lm(plan, ids, workers.device), workers, console)

    layers = _layers(config, model)
    plans = [evaluated(_protocol.of_lm(config, exit_layer=layer, candidates=offered)) for layer in layers]
    rows = [
        {"layer": layer, "users_per_second": _evaluation.pace_of(plan.folder), **found["metrics"]}
        for layer, (plan, found) in zip(layers, plans, strict=True)
    ]
    if config.exit_layer == "all":
        console.say(f"{model.name}, layer by layer:")
        console.table(
            ["layer", "users/s", *BY_LAYER],
            [[row["layer"], row["users_per_second"], *(row[name] for name in BY_LAYER)] for row in rows],
        )
    plan, found = plans[-1]
    exact: Found = {}
    if config.exact is not None:
        rules = _protocol.exact(plan.rules, config.exact, config.seed)
        exact = evaluated(rules, plan.folder)[1]
    return found, rows if config.exit_layer else [], exact


def _layers(config: Evaluate, model: Artifact) -> list[int | None]:
    """The layers to rank with; None is the last, as the model itself does."""
    if config.exit_layer is None:
        return [None]
    settings = json.loads((model.path / "model" / "config.json").read_text(encoding="utf-8"))
    depth = int(settings["num_hidden_layers"])
    if config.exit_layer == "all":
        return list(range(1, depth + 1))
    if int(config.exit_layer) > depth:
        raise UserError(f"--exit-layer {config.exit_layer}: '{model.name}' has layers 1 to {depth}")
    return [int(config.exit_layer)]


def _ks(config: Evaluate) -> tuple[int, ...]:
    return tuple(sorted({*KS, *config.ks}))


def _tell(config: Evaluate, results: dict[str, Found], exact: dict[str, Found], console: Console) -> None:
    """Print the tables and what to do next."""
    found = next(iter(results.values()))
    if config.candidates is not None:
        console.table(*_candidates.table(results))
    else:
        shown = (*REPORTED, *(f"{name}@{k}" for k in config.ks if k not in KS for name in ("hit", "ndcg")))
        console.table(
            ["run", *shown], [[name, *(each["metrics"][key] for key in shown)] for name, each in results.items()]
        )
    for name, each in exact.items():
        console.say(
            f"\n{name}: of the {each['users']:,} users' best items by exact scores, the search found "
            + ", ".join(f"{share:.4f} of {k}" for k, share in each["beam_recall"].items())
        )
    ranked = found["protocol"]["candidates"]
    console.say(f"\n{found['events']:,} {config.split} events, {ranked} ranked, seen items {config.seen_items}")
    console.say(f"Rankings and metrics: {_inputs.dataset_dir(config)}/{{runs,cf}}/NAME/eval/")
    if len(results) > 1:
        last = list(results)[-2:]
        if config.candidates is not None:
            last = [f"{name}:{_protocol.folder(results[name]['protocol'])}" for name in last]
        console.say(f"Is it real: ilrec compare {_inputs.flags(config)} {' '.join(last)}")
    console.say(f"Next: ilrec report {_inputs.flags(config)}")
