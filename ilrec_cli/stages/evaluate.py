"""Trained models -> full-ranking metrics on held-out events, one folder per protocol."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ilrec_cli import artifacts, devices
from ilrec_cli.artifacts import Artifact
from ilrec_cli.console import Console
from ilrec_cli.errors import UserError
from ilrec_cli.lm import backbone
from ilrec_cli.metrics import KS, REPORTED
from ilrec_cli.ranking import MOST_BEAMS
from ilrec_cli.settings import Evaluate
from ilrec_cli.stages import (
    _candidates,
    _chunks,
    _evaluation,
    _free,
    _inputs,
    _models,
    _protocol,
    _rankers,
    _sides,
    _templates,
    _workers,
)
from ilrec_cli.stages._candidate_sets import Sets
from ilrec_cli.stages._evaluation import Opened, Plan
from ilrec_cli.stages._workers import Workers

BY_LAYER = ("hit@1", "hit@10", "ndcg@10")
Found = dict[str, Any]


class Job(NamedTuple):
    """A model's evaluations: one, or one for every layer or every prompt; then its exact scores."""

    plans: list[Plan]
    layers: list[int | None]
    exact: Plan | None
    opened: Callable[[Plan, torch.device], Opened]
    averaged: bool = False  # over the prompts


def run(config: Evaluate) -> dict[str, Any]:
    """Evaluate every chosen run and collaborative model; write its eval/PROTOCOL folder; print the metrics."""
    console, workers = Console.of(config), _workers.join(config.device)
    devices.keep_freed_memory(workers.device)
    jobs = _jobs(config, _inputs.read_data(config), console)
    results: dict[str, Found] = {}
    more: dict[str, dict[str, Any]] = {"exit_layers": {}, "exact": {}}
    for label, job in jobs.items():
        if isinstance(job, _free.Asked):
            results[label] = _free.evaluate(job, workers, console)
            continue
        every = [_evaluated(plan, job, workers, console) for plan in job.plans]
        pairs = list(zip(job.plans, every, strict=True))
        results[label] = _templates.mean(pairs, workers, console) if job.averaged else every[-1]
        if config.exit_layer is not None and job.layers:
            more["exit_layers"][label] = _by_layer(config, label, job, every, console)
        if job.exact is not None:
            more["exact"][label] = _evaluated(job.exact, job, workers, console)
    events = next(iter(results.values()))["events"]
    _tell(config, results, more["exact"], console)
    metrics = {name: found["metrics"] for name, found in results.items()}
    for key in ("protocol", "intervals", "texts", "adjustment"):
        more[key] = {name: found[key] for name, found in results.items() if key in found}
    return {"events": events, "metrics": metrics, **{key: each for key, each in more.items() if each}}


def _evaluated(plan: Plan, job: Job, workers: Workers, console: Console) -> Found:
    return _evaluation.run(plan, lambda: job.opened(plan, workers.device), workers, console)


def _jobs(config: Evaluate, data: Artifact, console: Console) -> dict[str, Job | _free.Asked]:
    """What is to be done, by the models' names. Whatever can be refused is refused here, before anything is ranked."""
    jobs: dict[str, Job | _free.Asked] = {}
    sets = None if config.candidates is None else _offered(config, data, console)
    for path, kind in _chosen(config, data, console):
        model = artifacts.read(path, kind)
        model.require_parent(data, "data")
        label = model.name if model.name not in jobs else str(path.parent)  # as --run and compare take it
        _refuse(config, model, kind, data)
        if sets is not None:
            jobs[label] = _among_candidates(config, model, kind, data, sets.size)
            continue
        if kind == "run" and config.decode == "free":
            jobs[label] = _free.asked(config, model, data, _ks(config))
            continue
        job = (_collaborative if kind == "cf" else _language)(config, model, data)
        console.detail(f"{label}: {len(job.plans[0].events[0]):,} events")  # a split without any is refused
        jobs[label] = job
    return jobs


def _chosen(config: Evaluate, data: Artifact, console: Console) -> list[tuple[Path, str]]:
    """(folder, kind) of everything to evaluate: what --run names, or all that was made from these data."""
    if config.run:
        return list(dict.fromkeys(_inputs.find_model(config, selector) for selector in config.run))
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


def _offered(config: Evaluate, data: Artifact, console: Console) -> Sets:
    """The candidate sets; how many events have none is said."""
    sets, (_, user, end) = Sets.of(data), _inputs.events(data, config.split)
    missing = int((~sets.has(user, end)).sum())
    if missing:
        console.warn(f"{missing:,} of {len(user):,} {config.split} events have no candidates; they are left out")
    return sets


def _refuse(config: Evaluate, model: Artifact, kind: str, data: Artifact) -> None:
    """What a list, or a search for few items, cannot answer."""
    longest, items = max(config.ks, default=0), data.json("card.json")["statistics"]["items"]
    if longest > items:
        raise UserError(f"--ks {longest}: the data have {items:,} items")
    if kind == "cf":
        return
    if config.seen_items == "removed":
        raise UserError(
            f"--seen-items removed: '{model.name}' is a language model, whose search finds {config.beams} items, seen ones "
            "among them. Choose collaborative models with --run"
        )
    if config.decode == "free" or config.candidates is not None:
        return
    if longest > config.beams:
        raise UserError(
            f"--ks {longest}: the search for '{model.name}' has {config.beams} beams. Raise --beams to {longest}"
        )
    if min(config.beams, items) > MOST_BEAMS:
        raise UserError(
            f"--beams {config.beams}: a search takes at most {MOST_BEAMS:,}. To score every item: --exact, for some users"
        )


def _collaborative(config: Evaluate, model: Artifact, data: Artifact) -> Job:
    rules = _protocol.of_cf(
        config.split, limit_users=config.limit_users, seed=config.seed, seen_items=config.seen_items
    )
    ks, made = _ks(config), {"model": model.config["model"]}
    plan = Plan(model, data, rules, "cf", ks, _chunks.CHUNK, config.overwrite, made)
    return Job([plan], [], None, _rankers.open_cf)


def _language(config: Evaluate, model: Artifact, data: Artifact) -> Job:
    """The last layer, the chosen one or all; and where asked for, exact scores that judge the search of the last."""
    ids = _inputs.ids_of_run(config, model, data)
    config = replace(config, normalize=_models.trained_scope(model, config.normalize))
    guide = {} if config.cf_guidance is None else {"cf": _inputs.read_cf(config, data, config.cf)}
    config = replace(config, cf=guide["cf"].name) if guide else config
    layers = _layers(config, model)
    rules = [_protocol.of_lm(config, exit_layer=layer, template=config.template) for layer in layers]
    _models.trained_layout(model, config.template)
    if config.all_templates:
        count = len(_models.trained_layouts(model))
        rules = [_protocol.of_lm(config, template=number) for number in range(count)]
    ks, made = tuple(k for k in _ks(config) if k <= config.beams), {"method": model.config["method"]}
    plans = [
        Plan(model, data, each, "run", ks, config.batch_size, config.overwrite, made, others=guide) for each in rules
    ]
    exact = None
    if config.exact is not None:
        rule = _protocol.exact(rules[-1], config.exact, config.seed)
        exact = replace(plans[-1], rules=rule, ks=_ks(config), searched=plans[-1].folder)
    return Job(plans, layers, exact, lambda plan, device: _rankers.open_lm(plan, ids, device), config.all_templates)


def _among_candidates(config: Evaluate, model: Artifact, kind: str, data: Artifact, count: int) -> Job:
    """As for the catalogue, of each event's own candidates."""
    ks, made = _ks(config), {"method": model.config["method"]} if kind == "run" else {"model": model.config["model"]}
    if kind == "cf":
        ranked = _protocol.of_each_event(count)
        rules = [_protocol.of_cf(config.split, limit_users=config.limit_users, seed=config.seed, ranked=ranked)]
        plan = Plan(model, data, rules[0], "cf", ks, _chunks.CHUNK, config.overwrite, made)
        return Job([plan], [], None, _candidates.open_cf)
    ids = _inputs.ids_of_run(config, model, data)
    _candidates.refuse(config, model, ids)
    config = replace(config, normalize=_models.trained_scope(model, config.normalize))
    layers = _layers(config, model)
    asked = range(_candidates.templates(model)) if config.all_templates else [config.template]
    rules = [_protocol.of_candidates(config, count, exit_layer=layer, template=number)
             for layer in layers for number in asked]  # fmt: skip
    plans = [Plan(model, data, each, "run", ks, config.batch_size, config.overwrite, made) for each in rules]
    return Job(plans, layers, None, lambda plan, device: _candidates.open_lm(plan, ids, device), config.all_templates)


def _by_layer(config: Evaluate, label: str, job: Job, every: list[Found], console: Console) -> list[Found]:
    """A row for each of the layers, with its speed."""
    rows = [
        {"layer": layer, "users_per_second": _evaluation.pace_of(plan.folder), **found["metrics"]}
        for layer, plan, found in zip(job.layers, job.plans, every, strict=True)
    ]
    if config.exit_layer == "all":
        console.say(f"{label}, layer by layer:")
        columns = ("layer", "users_per_second", *(name for name in BY_LAYER if name in rows[0]))
        console.table(
            ["layer", "users/s", *columns[2:]],
            [[row[name] for name in columns] for row in rows],
        )
    return rows


def _layers(config: Evaluate, model: Artifact) -> list[int | None]:
    """The layers to rank with; None is the last, as the model itself does."""
    if config.exit_layer is None:
        return [None]
    depth = backbone.saved_depth(model.path / "model")
    if config.exit_layer == "all":
        return list(range(1, depth + 1))
    if int(config.exit_layer) > depth:
        raise UserError(f"--exit-layer {config.exit_layer}: '{model.name}' has layers 1 to {depth}")
    return [int(config.exit_layer)]


def _ks(config: Evaluate) -> tuple[int, ...]:
    return tuple(sorted({*KS, *config.ks}))


def _tell(config: Evaluate, results: dict[str, Found], exact: dict[str, Found], console: Console) -> None:
    """Print the tables and what to do next."""
    if config.candidates is not None:
        console.table(*_candidates.table(results))
        _tell_more(config, results, console)
        return
    wanted = (*REPORTED, *(f"{name}@{k}" for k in config.ks if k not in KS for name in ("hit", "ndcg")))
    shown = [metric for metric in wanted if any(metric in found["metrics"] for found in results.values())]
    console.table(
        ["run", *shown],
        [[name, *(found["metrics"].get(metric) for metric in shown)] for name, found in results.items()],
    )
    if any(max(found["ks"]) < max(KS) for found in results.values()):
        console.say(
            f"\nA search with {config.beams} beams finds {config.beams} identifiers: no metrics beyond @{config.beams}"
        )
    for name, found in results.items():
        if "texts" in found:
            console.say(
                f"\n{name}: of its texts {found['texts']['titles']:.4f} are the title of an item, {found['texts']['distinct']:.4f} "
                "are different"
            )
    for name, found in exact.items():
        console.say(
            f"\n{name}: of the {found['users']:,} users' best items by exact scores, the search found "
            + ", ".join(f"{share:.4f} of {k}" for k, share in found["beam_recall"].items())
        )
    _tell_more(config, results, console)


def _tell_more(config: Evaluate, results: dict[str, Found], console: Console) -> None:
    """What was ranked, and what to do next."""
    found = next(iter(results.values()))
    ranked = found["protocol"]["candidates"]
    console.say(f"\n{found['events']:,} {config.split} events, {ranked} ranked, seen items {config.seen_items}")
    console.say(f"Rankings and metrics: {_inputs.dataset_dir(config)}/{{runs,cf}}/NAME/eval/")
    if len(results) > 1:
        last = {name: _protocol.folder(results[name]["protocol"]) for name in list(results)[-2:]}
        if not {*last.values()} <= {f"test-{each}" for each in _sides.DEFAULTS}:  # which compare takes unasked
            last = {f"{name}:{folder}": folder for name, folder in last.items()}
        console.say(f"Is it real: ilrec compare {_inputs.flags(config)} {' '.join(last)}")
    console.say(f"Next: ilrec report {_inputs.flags(config)}")
