"""Sequences -> a collaborative model, with its metrics on validation and test, and popularity's beside them."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ilrec_cli import artifacts, devices, folders, plugins
from ilrec_cli import config as configs
from ilrec_cli.artifacts import Artifact
from ilrec_cli.cf import _fit
from ilrec_cli.console import Console
from ilrec_cli.errors import UserError
from ilrec_cli.interrupt import Stopped
from ilrec_cli.json_log import read_log
from ilrec_cli.settings import TrainCf
from ilrec_cli.stages import _cf, _evaluation, _inputs, _models, _protocol, _rankers, _run_folder, _workers

SHOWN = ("hit@5", "hit@10", "ndcg@5", "ndcg@10")
SPLITS = ("valid", "test")
Metrics = dict[str, dict[str, float]]  # of each split


class Task(NamedTuple):
    """A model as asked for."""

    settings: TrainCf
    recorded: dict[str, Any]  # what decides the result, apart from the version of the data
    parents: dict[str, Artifact]
    kind: str = "cf"


def run(config: TrainCf) -> dict[str, Any]:
    """Train, write WORK/DATASET/cf/NAME/train and eval/, print metrics."""
    _check_seeds(config)
    console = Console.of(config)
    data = _inputs.read_data(config)
    for split in SPLITS:
        if not len(_inputs.events(data, split)[0]):
            raise UserError(f"{data.path}: there is no {split} target (users need at least 3 interactions for one)")
    devices.keep_freed_memory(devices.resolve(config.device))
    results = {"popularity": _evaluate(_counted("popularity", config, data), data, config)}
    trained = [_model(each, data, console) for each in _each_seed(config)]
    found = [{"path": str(model.path), "name": model.name, **_course(model), **_evaluate(model, data, config)}
             for model in trained]  # fmt: skip
    results |= {config.model if len(found) == 1 else each["name"]: each for each in found}
    spread = _spread(found)
    console.table(["model", "split", *SHOWN], _rows(results | spread))
    console.say(f"\nModel: {trained[-1].path}\nNext: ilrec train {_inputs.flags(config)} --method ilrec")
    return {"runs": found, **spread} if config.seeds else found[0]


def _check_seeds(config: TrainCf) -> None:
    """Seeds that would play no part are refused: a spread of zero would look like a finding."""
    if config.seeds and config.seed:
        raise UserError(f"--seed {config.seed} plays no part beside --seeds: leave one of them out")
    if config.seed and config.model == "random":
        raise UserError(f"--seed {config.seed}: random is not trained; its order is given by -o seed={config.seed}")
    if config.seeds and not plugins.load("cf", config.model).TRAINED:
        instead = "another order is -o seed=N" if config.model == "random" else "one run is all there is"
        raise UserError(f"--seeds: {config.model} is not trained, every seed would give the same figures; {instead}")


def _each_seed(config: TrainCf) -> list[TrainCf]:
    """One configuration for every seed."""
    if not config.seeds:
        return [config]
    names = {seed: config.name and f"{config.name}-s{seed}" for seed in config.seeds}
    return [replace(config, seed=seed, name=names[seed]) for seed in config.seeds]


def _model(config: TrainCf, data: Artifact, console: Console) -> Artifact:
    """The finished artifact of a model: the one that is there, or a new one."""
    if not plugins.load("cf", config.model).TRAINED:
        return _counted(config.model, config, data)
    recorded = configs.as_dict(config, control=False) | {"options": _cf.options(config.model, config.options)}
    folder = _folder(config, config.name or f"{config.model}-{configs.fingerprint(recorded)}-s{config.seed}")
    task = Task(_settled(config, folder, data), recorded, {"data": data})
    if _run_folder.is_finished(folder, task):
        console.detail(f"Already trained: {folder}")
    else:
        _train(task, folder, console)
    return artifacts.read(folder, "cf")


def _folder(config: TrainCf, name: str) -> Path:
    return _inputs.dataset_dir(config) / "cf" / folders.plain_name(name, "--name") / "train"


def _settled(config: TrainCf, folder: Path, data: Artifact) -> TrainCf:
    """Without --name a model of other data is replaced; with --seeds, those resume that were begun."""
    if config.name is None and artifacts.exists(folder):
        stale = artifacts.read_manifest(folder)["parents"]["data"] != data.digest
        return replace(config, resume=False, overwrite=True) if stale else config
    return replace(config, resume=config.resume and (not config.seeds or _run_folder.has_checkpoint(folder)))


def _train(task: Task, folder: Path, console: Console) -> None:
    """Train in the folder and finish it; what --limit-users leaves out is not trained on."""
    from safetensors.torch import save_file

    config, data = task.settings, task.parents["data"]
    device = devices.resolve(config.device)
    material = _cf.material(data, config.limit_users, config.seed)
    model = _cf.new_model(config.model, task.recorded["options"], material.facts, config.seed, device)
    count = sum(parameter.numel() for parameter in model.parameters())
    targets = int((material.windows.stop - material.windows.first).sum())
    console.say(f"{config.model}, seed {config.seed}: {count:,} parameters, {targets:,} targets")
    with _run_folder.opened(folder, task):
        saving = _fit.Saving(folder, _run_folder.identity(task), config.resume)
        try:
            progress = _fit.fit(model, material, config, device=device, log=_cf.say_epoch(console), saving=saving,
                                console=console)  # fmt: skip
        except Stopped as stopped:
            console.say(f"\n{stopped}")
            raise
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        save_file(state, str(folder / "model.safetensors"))
        _run_folder.finish(folder, task)
    console.say(f"Best epoch {progress.best_epoch}; {progress.seconds:.0f} s\n")


def _counted(name: str, config: TrainCf, data: Artifact) -> Artifact:
    """A model without training: no settings, no seed, so its folder needs no hash."""
    from safetensors.torch import save_file

    chosen = config.model == name
    options = _cf.options(name, config.options if chosen else {})
    recorded = {"dataset": config.dataset, "model": name, "options": options}
    folder = _folder(config, (config.name if chosen else None) or name)
    if artifacts.exists(folder) and not config.overwrite:
        found = artifacts.read(folder, "cf")
        if found.config == recorded and found.manifest["parents"]["data"] == data.digest:
            return found
    model = _cf.new_model(name, options, _models.facts(data), config.seed, torch.device("cpu"))
    with artifacts.create(folder, kind="cf", config=recorded, seed=config.seed, parents={"data": data}) as aside:
        save_file(model.state_dict(), str(aside / "model.safetensors"))
        artifacts.write_text(aside / "config.yaml", configs.to_yaml(recorded))
    return artifacts.read(folder, "cf")


def _evaluate(model: Artifact, data: Artifact, config: TrainCf) -> Metrics:
    """Full-ranking metrics of every validation and test event, kept as evaluations."""
    scores, workers, quiet = {}, _workers.join(config.device), Console(quiet=True)
    for split in SPLITS:
        rules = _protocol.of_cf(split, seen_items=config.seen_items)
        plan = _evaluation.Plan(model, data, rules, "cf", more={"model": model.config["model"]})
        open_model = partial(_rankers.open_cf, plan, workers.device)
        scores[split] = _evaluation.run(plan, open_model, workers, quiet)["metrics"]
    return scores


def _course(model: Artifact) -> dict[str, Any]:
    """How training went: epochs, the best of them, seconds."""
    log = read_log(model.path / "log.jsonl")
    if not log:
        return {}
    return {"epochs": log[-1]["epoch"], "best_epoch": max(row["epoch"] for row in log if row["best"]),
            "seconds": log[-1]["seconds"]}  # fmt: skip


def _spread(found: list[dict[str, Any]]) -> dict[str, Metrics]:
    """Mean over seeds and standard deviation of a seed (n - 1); nothing for one seed."""
    if len(found) == 1:
        return {}
    ways: dict[str, Callable[[list[float]], float]] = {"mean": statistics.fmean, "std": statistics.stdev}
    return {
        way: {split: {name: of([each[split][name] for each in found]) for name in found[0][split]} for split in SPLITS}
        for way, of in ways.items()
    }


def _rows(results: dict[str, Any]) -> list[list[Any]]:
    return [[name, split, *(scores[split][metric] for metric in SHOWN)]
            for name, scores in results.items() for split in SPLITS]  # fmt: skip
