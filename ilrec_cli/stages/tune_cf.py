"""Settings of a collaborative model, searched on validation data: one line per trial, the best one as a YAML file.

Test events are never read. A search that was stopped goes on: trials that are recorded are not run again. A trial that
diverges is recorded without figures, and the search goes on with the next.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ilrec_cli import artifacts, devices, folders, plugins
from ilrec_cli import config as configs
from ilrec_cli.artifacts import Artifact
from ilrec_cli.cf._fit import DivergedError, fit
from ilrec_cli.console import Console
from ilrec_cli.errors import UserError, nearest
from ilrec_cli.interrupt import Stopped
from ilrec_cli.json_log import read_log
from ilrec_cli.settings import FitCf, TuneCf
from ilrec_cli.stages import _cf, _inputs

MOST = 1000  # combinations that are all tried; more need --trials
DRAWN_FROM = 10**6
SHOWN = 20  # rows of the table
TUNABLE = ("epochs", "patience", "batch_size", "learning_rate", "weight_decay", "clip", "dtype")


class Trial(NamedTuple):
    """One combination: what it sets, and everything that decides its result."""

    changed: dict[str, Any]
    settings: FitCf
    options: dict[str, Any]
    identity: dict[str, Any]


def run(config: TuneCf) -> dict[str, Any]:
    """Run the trials that are not recorded; write WORK/DATASET/tune/NAME/trials.jsonl and best.yaml; print the table."""
    console = Console.of(config)
    data = _inputs.read_data(config)
    if not plugins.load("cf", config.model).TRAINED:
        raise UserError(f"{config.model} is counted, not trained: there is nothing to tune")
    if not len(_inputs.events(data, "valid")[0]):
        raise UserError(f"{data.path}: there is no validation target (users need at least 3 interactions for one)")
    trials = _trials(config, data)
    folder = _inputs.dataset_dir(config) / "tune" / folders.plain_name(config.name or config.model, "--name")
    folder.mkdir(parents=True, exist_ok=True)
    log, file = folder / "trials.jsonl", folder / "best.yaml"
    with folders.locked(folder, wait=False) as free:
        if not free:
            raise UserError(f"{folder}: another process runs this search. Wait for it, or choose another --name")
        if config.overwrite:
            log.unlink(missing_ok=True)
            file.unlink(missing_ok=True)
        rows = _run_all(config, trials, data, log, console)
        best = rows[0]
        if "failed" in best:
            file.unlink(missing_ok=True)  # of other trials
            raise UserError(f"all {len(rows)} trials failed, see {log}; the first: {best['failed']}")
        artifacts.write_text(file, configs.to_yaml(_as_config(config, best["changed"])))
    _show(rows, console)
    console.say(f"\nTrials: {log}\nBest: {file}\nNext: ilrec train-cf {_inputs.flags(config)} --config {file}")
    return {"path": str(folder), "trials": len(rows), "best": best}


def best_first(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By validation NDCG@10, of equal ones the earlier; those that failed last."""
    return sorted(rows, key=lambda row: ("failed" in row, -(row["valid_ndcg@10"] or 0.0)))


def _trials(config: TuneCf, data: Artifact) -> list[Trial]:
    """Every combination of the values, or those that the seed draws; a combination that cannot be is refused now.

    Values that are equal however they are spelled, such as 1e-3 and 0.001, are one trial.
    """
    axes = _axes(config)
    count = math.prod(map(len, axes.values()))
    if count > DRAWN_FROM or (config.trials is None and count > MOST):
        raise UserError(f"-o lists {count:,} combinations: draw some with --trials N, or list fewer values")
    drawn = config.trials is not None and config.trials < count
    places = np.random.default_rng(config.seed).permutation(count) if drawn else np.arange(count)
    found: dict[str, Trial] = {}
    for row in zip(*np.unravel_index(places, [len(values) for values in axes.values()]), strict=True):
        trial = _trial({key: axes[key][index] for key, index in zip(axes, row, strict=True)}, config, data)
        found.setdefault(json.dumps(trial.identity, sort_keys=True), trial)
        if len(found) == config.trials:
            break
    return list(found.values())


def _axes(config: TuneCf) -> dict[str, list[Any]]:
    """The values to try of every key that -o names."""
    options = [field.name for field in configs.fields(plugins.load("cf", config.model).Config)]
    if not config.options:
        raise UserError(
            f"nothing to try. Give values, such as -o learning_rate=1e-3,5e-4; options: ilrec cf {config.model}"
        )
    axes = {}
    for key, given in config.options.items():
        if key not in (*TUNABLE, *options):
            known = ", ".join((*TUNABLE, *options))
            raise UserError(
                f"ilrec tune cf: unknown setting '{key}'.{nearest(key, (*TUNABLE, *options))} Known: {known}"
            )
        listed = given if isinstance(given, list) else [part.strip() for part in str(given).split(",") if part.strip()]
        if not listed:
            raise UserError(f"ilrec tune cf: -o {key} lists no value")
        axes[key] = listed
    return axes


def _trial(values: dict[str, Any], config: TuneCf, data: Artifact) -> Trial:
    where = f"ilrec tune cf, trial {', '.join(f'{key}={value}' for key, value in values.items())}"
    base = {field.name: getattr(config, field.name) for field in configs.fields(FitCf)}
    settings = configs.build(FitCf, base | {key: value for key, value in values.items() if key in TUNABLE}, where)
    options = _cf.options(config.model, {key: value for key, value in values.items() if key not in TUNABLE})
    changed = {key: getattr(settings, key) if key in TUNABLE else options[key] for key in values}
    recorded = configs.as_dict(settings, control=False) | {"options": options}
    return Trial(changed, settings, options, recorded | {"version of --data": data.digest})


def _run_all(config: TuneCf, trials: list[Trial], data: Artifact, log: Path, console: Console) -> list[dict[str, Any]]:
    """The rows of all trials, best first."""
    recorded = read_log(log)
    artifacts.write_text(log, "".join(json.dumps(row) + "\n" for row in recorded))  # without a line cut short
    open_ = [trial for trial in trials if not any(row["identity"] == trial.identity for row in recorded)]
    console.say(
        f"{config.model}: {len(trials)} trials of at most {config.epochs} epochs, {len(trials) - len(open_)} of them recorded"
    )
    for number, trial in enumerate(open_, start=len(trials) - len(open_) + 1):
        shown = ", ".join(f"{key}={value}" for key, value in trial.changed.items())
        console.say(f"\nTrial {number} of {len(trials)}: {shown}")
        try:
            recorded.append(_run_trial(config, trial, data, console))
        except Stopped:
            console.say("\nstopped; the same command goes on with this trial")
            raise
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(recorded[-1]) + "\n")
    rows = [next(row for row in recorded if row["identity"] == trial.identity) for trial in trials]
    return best_first(rows)


def _run_trial(config: TuneCf, trial: Trial, data: Artifact, console: Console) -> dict[str, Any]:
    """Train once, as train-cf does; its best epoch by validation, or no figures and why it failed."""
    device = devices.resolve(config.device)
    devices.keep_freed_memory(device)
    material = _cf.material(data, config.limit_users, config.seed)
    model = _cf.new_model(config.model, trial.options, material.facts, config.seed, device)
    log: list[dict[str, Any]] = []

    def note(row: dict[str, Any]) -> None:
        log.append(row)
        _cf.say_epoch(console)(row)

    started = time.perf_counter()
    try:
        best = log[fit(model, material, trial.settings, device=device, log=note, console=console).best_epoch - 1]
        why = {}
    except DivergedError as error:
        console.say(f"failed: {error}")
        best, why = dict.fromkeys(("valid_ndcg@10", "valid_hit@10", "epoch")), {"failed": str(error)}
    return {"changed": trial.changed, "valid_ndcg@10": best["valid_ndcg@10"], "valid_hit@10": best["valid_hit@10"],
            "best_epoch": best["epoch"], "epochs": len(log), "seconds": round(time.perf_counter() - started, 1), **why,
            "identity": trial.identity}  # fmt: skip


def _show(rows: list[dict[str, Any]], console: Console) -> None:
    figures = ("valid_ndcg@10", "valid_hit@10", "best_epoch")
    table = [[*(str(value) for value in row["changed"].values()), *(row[name] for name in figures), round(row["seconds"])]
             for row in rows]  # fmt: skip
    console.say()
    console.table([*rows[0]["changed"], *figures, "seconds"], table[:SHOWN])


def _as_config(config: TuneCf, changed: dict[str, Any]) -> dict[str, Any]:
    """Settings for `train-cf --config`: what the trial changed, and what the search was given besides its budget."""
    given = {
        field.name: getattr(config, field.name)
        for field in configs.fields(FitCf)
        if field.name in TUNABLE and field.name != "epochs" and getattr(config, field.name) != field.default
    }
    settings = given | {key: value for key, value in changed.items() if key in TUNABLE}
    options = {key: value for key, value in changed.items() if key not in TUNABLE}
    return {"model": config.model, **settings, "options": options}
