"""Data, identifiers and a collaborative model -> a fine-tuned language model."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ilrec_cli import artifacts, plugins
from ilrec_cli import config as configs
from ilrec_cli.console import Console
from ilrec_cli.errors import UserError
from ilrec_cli.lm import backbone
from ilrec_cli.lm.interrupt import Stopped
from ilrec_cli.lm.loop import Job, Loop, Progress
from ilrec_cli.settings import Train
from ilrec_cli.stages import _inputs, _job
from ilrec_cli.stages._job import Task

RATES = {"tiny": 2e-3, "full": 5e-5, "lora": 1e-4}  # LC-Rec's full fine-tuning, BIGRec's LoRA; tiny: ours


def run(config: Train) -> dict[str, Any]:
    """Train, write WORK/DATASET/runs/NAME/train, print where it lies."""
    console = Console.of(config)
    task = _task(config)
    config = task.settings
    name = config.name or f"{config.method}-{configs.fingerprint(task.identity)}-s{config.seed}"
    folder = _inputs.dataset_dir(config) / "runs" / name / "train"
    if _finished(folder, task):
        console.say(f"Already trained: {folder}\nNext: ilrec evaluate --dataset {config.dataset} --run {name}")
        return {"path": str(folder), "name": name, "trained": False}
    job, accelerator, opened = _job.prepare(task, folder)
    _describe(job, console)
    if accelerator.is_main_process:
        _open_folder(folder, task)
    accelerator.wait_for_everyone()
    progress = _train(job, accelerator, console)
    if accelerator.is_main_process:
        _finish(folder, opened, task)
    accelerator.wait_for_everyone()
    console.say(
        f"\nBest validation NDCG@10 {progress.best:.4f} at step {progress.best_step}; {progress.seconds:.0f} s\n"
        f"Run: {folder}\nNext: ilrec evaluate --dataset {config.dataset} --run {name}"
    )
    return {"path": str(folder), "name": name, "trained": True, "best_valid_ndcg@10": progress.best,
            "best_step": progress.best_step, "steps": progress.step, "seconds": progress.seconds}  # fmt: skip


def _task(config: Train) -> Task:
    """The run with every open setting decided and its inputs opened."""
    method = plugins.load("methods", config.method)
    options = configs.build(method.Config, config.options, f"method '{config.method}'")
    tiny = backbone.is_tiny(config.backbone)
    targets = ("all" if tiny else "last") if config.targets == "auto" else config.targets
    rate = config.learning_rate or RATES["tiny" if tiny else config.tuning]
    config = replace(config, targets=targets, learning_rate=rate)
    data = _inputs.read_data(config)
    parents = {"data": data, "ids": _inputs.read_ids(config, data, config.ids)}
    needs = method.needs(options)
    if "cf_scores" in needs:
        parents["cf"] = _inputs.read_cf(config, data, config.cf)
    recorded = {**configs.as_dict(config, control=False), "options": configs.as_dict(options)}
    versions = {f"version of --{role}": parent.digest for role, parent in parents.items()}
    return Task(config, method, options, needs, parents, {**recorded, **versions})


def _recorded(task: Task) -> dict[str, Any]:
    return {key: value for key, value in task.identity.items() if not key.startswith("version of")}


def _finished(folder: Path, task: Task) -> bool:
    """True if this very run is there; refuses to touch another one, or an unfinished one, unasked."""
    if task.settings.overwrite:
        return False
    if artifacts.exists(folder):
        if artifacts.read(folder, "run").json("identity.json") == task.identity:
            return True
        raise UserError(f"{folder} holds a run with other settings. Choose another --name, or --overwrite it")
    if (folder / "checkpoints").exists() and not task.settings.resume:
        raise UserError(f"{folder} holds an unfinished run. Go on with --resume, or start again with --overwrite")
    return False


def _describe(job: Job, console: Console) -> None:
    model, settings = job.model, job.settings
    every = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    layers = f", candidate layers {', '.join(map(str, model.inner_layers))}" if model.inner_layers else ""
    console.say(f"{settings.method} on {settings.backbone}: {every:,} parameters, {trained:,} trained{layers}")
    console.say(f"{len(job.examples):,} examples, {job.examples.targets(np.arange(len(job.examples))):,} targets")


def _open_folder(folder: Path, task: Task) -> None:
    """Make the run's folder, with the resolved configuration in it."""
    if not task.settings.resume:
        shutil.rmtree(folder.parent, ignore_errors=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise UserError(f"{folder}: the output folder cannot be made ({reason}). Choose another --work") from error
    inputs = {role: parent.name for role, parent in task.parents.items() if role != "data"}
    artifacts.write_text(folder / "config.yaml", configs.to_yaml({**_recorded(task), **inputs}))


def _train(job: Job, accelerator: Any, console: Console) -> Progress:
    """Run the loop; a run that fails before its first checkpoint leaves no folder behind."""
    try:
        return Loop(job, accelerator, console).run()
    except Stopped as stopped:
        console.say(f"\n{stopped}")
        raise
    except Exception:
        if accelerator.is_main_process and not any((job.folder / artifacts.SCRATCH).glob("*.safetensors")):
            shutil.rmtree(job.folder.parent, ignore_errors=True)
            with suppress(OSError):  # other runs are there
                job.folder.parent.parent.rmdir()
        raise


def _finish(folder: Path, opened: backbone.Backbone, task: Task) -> None:
    """Write the model and the manifest; checkpoints go, since a finished run is not resumed."""
    shutil.rmtree(folder / "model", ignore_errors=True)
    backbone.save(opened, folder / "model")
    artifacts.write_json(folder / "identity.json", task.identity)
    artifacts.finish(folder, kind="run", config=_recorded(task), seed=task.settings.seed, parents=task.parents)
    shutil.rmtree(folder / artifacts.SCRATCH, ignore_errors=True)  # last: killed before this, nothing is lost
