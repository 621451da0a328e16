"""Trained models -> full-ranking metrics on held-out events, one folder per protocol."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ilrec_cli import artifacts, devices
from ilrec_cli.artifacts import Artifact
from ilrec_cli.console import Console
from ilrec_cli.errors import UserError
from ilrec_cli.metrics import REPORTED
from ilrec_cli.ranking import Rankings
from ilrec_cli.schemas import KINDS
from ilrec_cli.settings import Evaluate
from ilrec_cli.stages import _cf, _evaluation, _inputs, _models


def run(config: Evaluate) -> dict[str, Any]:
    """Evaluate every chosen run and collaborative model; write its eval/PROTOCOL folder; print the metrics."""
    console = Console.of(config)
    data = _inputs.read_data(config)
    events = _events(config, data)
    results: dict[str, dict[str, float]] = {}
    for path, kind in _chosen(config, data, console):
        model = artifacts.read(path, kind)
        if kind == "run" and config.seen_items == "removed":
            raise UserError(
                f"--seen-items removed: '{model.name}' is a language model, whose search finds {config.beams} items, seen ones "
                "among them. Choose collaborative models with --run"
            )
        model.require_parent(data, "data")
        label = model.name if model.name not in results else f"{model.name} ({KINDS[kind][0]})"
        results[label] = _evaluate(config, model, kind, data, events, console)
    console.table(
        ["run", *REPORTED], [[name, *(scores[metric] for metric in REPORTED)] for name, scores in results.items()]
    )
    console.say(f"\n{len(events[0]):,} {config.split} events, full catalogue ranked, seen items {config.seen_items}")
    console.say(f"Rankings and metrics: {_inputs.dataset_dir(config)}/{{runs,cf}}/NAME/eval/")
    console.say(f"Next: ilrec report {_inputs.flags(config)}")
    return {"events": len(events[0]), "metrics": results}


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
    return fitting


def _events(config: Evaluate, data: Artifact) -> tuple[np.ndarray, ...]:
    """(event, user, end) of the split, or of the users drawn from it."""
    events = _inputs.events(data, config.split)
    if not len(events[0]):
        raise UserError(f"{data.path}: the split '{config.split}' has no event (users need at least 3 interactions)")
    chosen = _inputs.draw_users(events[1], config.limit_users, config.seed)
    return tuple(column[chosen] for column in events)


def _evaluate(
    config: Evaluate, model: Artifact, kind: str, data: Artifact, events: tuple[np.ndarray, ...], console: Console
) -> dict[str, float]:
    if kind == "run":
        config = replace(config, normalize=_models.trained_scope(model, config.normalize))
    search = {"beams": config.beams, "normalize": config.normalize, "dtype": config.dtype} if kind == "run" else None
    rules = _evaluation.protocol(
        config.split, config.limit_users, config.seed, search=search, seen_items=config.seen_items
    )
    known = None if config.overwrite else _evaluation.known(model, data, rules)
    if known is not None:
        console.say(f"{model.name}: evaluated already, in {_evaluation.folder_of(model, rules)}")
        return known
    devices.keep_freed_memory(devices.resolve(config.device))
    started = time.perf_counter()
    rankings, extra = (_rank_lm if kind == "run" else _rank_cf)(config, model, data, events, console)
    means = _evaluation.write(model, data, rules, rankings, events, extra)
    seconds = time.perf_counter() - started
    console.say(f"{model.name}: {len(events[0]):,} events in {seconds:.0f} s ({len(events[0]) / seconds:.0f} a second)")
    return means


def _rank_cf(
    config: Evaluate, cf: Artifact, data: Artifact, events: tuple[np.ndarray, ...], console: Console
) -> tuple[Rankings, dict[str, Any]]:
    rankings = _cf.rank(cf, data, events, devices.resolve(config.device), config.seen_items)
    return rankings, {"model": cf.config["model"]}


def _rank_lm(
    config: Evaluate, run: Artifact, data: Artifact, events: tuple[np.ndarray, ...], console: Console
) -> tuple[Rankings, dict[str, Any]]:
    ids = _inputs.ids_of_run(config, run, data)
    ranker = _models.open_ranker(
        run, ids, data, device=devices.resolve(config.device), dtype=devices.DTYPES[config.dtype],
        beams=config.beams, normalize=config.normalize,
    )  # fmt: skip
    sequences, max_history = _inputs.sequences(data), data.json("card.json")["max_history"]

    def progress(chunks: Iterable[Any]) -> Iterable[Any]:
        return console.progress(chunks, run.name, total=-(-len(events[0]) // config.batch_size))

    rankings = ranker.rank_events(
        sequences, events[1], events[2], max_history, batch_size=config.batch_size, progress=progress
    )
    target = torch.from_numpy(sequences.items[sequences.offsets[events[1]] + events[2]])
    trie = ranker.catalogue.trie
    lo, hi = trie.range(trie.leaf_of(target))
    return rankings, {"method": run.config["method"], "ambiguous_targets": int(((hi - lo) > 1).sum())}
