"""Settings of a collaborative model, searched on validation data: one line per trial, the best one as a YAML file.

Test events are never read. A search that was stopped goes on: trials that are recorded are not run again. A trial that
diverges is recorded without figures, and the search goes on with the next.
"""

from __future__ import annotations

import time
from typing import Any

from ilrec_cli import config as configs
from ilrec_cli import devices, folders, plugins
from ilrec_cli.artifacts import Artifact
from ilrec_cli.cf._fit import DivergedError, fit
from ilrec_cli.console import Console
from ilrec_cli.errors import UserError
from ilrec_cli.settings import FitCf, TuneCf
from ilrec_cli.stages import _cf, _inputs, _search
from ilrec_cli.stages._search import Trial

TUNABLE = ("epochs", "patience", "batch_size", "learning_rate", "weight_decay", "clip", "dtype")


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
    with _search.opened(folder, overwrite=config.overwrite) as log:
        console.say(f"{config.model}: {len(trials)} trials of at most {config.epochs} epochs")
        rows = _search.run_all(trials, log, lambda trial: _run_trial(config, trial, data, console), console)
        file = _search.write_best(folder, rows, lambda row: _as_config(config, row["changed"]))
    _search.show(rows, (_search.FIGURE, "valid_hit@10", "best_epoch"), console)
    console.say(f"\nTrials: {log}\nBest: {file}\nNext: ilrec train-cf {_inputs.flags(config)} --config {file}")
    return {"path": str(folder), "trials": len(rows), "best": rows[0]}


def _trials(config: TuneCf, data: Artifact) -> list[Trial]:
    """Every combination of the values, or those that the seed draws; a combination that cannot be is refused now."""
    options = [field.name for field in configs.fields(plugins.load("cf", config.model).Config)]
    hint = f"Give values, such as -o learning_rate=1e-3,5e-4; options: ilrec cf {config.model}"
    axes = _search.axes(config.options, (*TUNABLE, *options), "ilrec tune cf", hint)
    return _search.combinations(axes, lambda values: _trial(values, config, data), config.trials, config.seed)


def _trial(values: dict[str, Any], config: TuneCf, data: Artifact) -> Trial:
    where = f"ilrec tune cf, trial {_search.named(values)}"
    base = {field.name: getattr(config, field.name) for field in configs.fields(FitCf)}
    settings = configs.build(FitCf, base | {key: value for key, value in values.items() if key in TUNABLE}, where)
    options = _cf.options(config.model, {key: value for key, value in values.items() if key not in TUNABLE})
    changed = {key: getattr(settings, key) if key in TUNABLE else options[key] for key in values}
    recorded = configs.as_dict(settings, control=False) | {"options": options}
    return Trial(changed, settings, options, recorded | {"version of --data": data.digest})


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
    return {_search.FIGURE: best["valid_ndcg@10"], "valid_hit@10": best["valid_hit@10"], "best_epoch": best["epoch"],
            "epochs": len(log), "seconds": round(time.perf_counter() - started, 1), **why}  # fmt: skip


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
