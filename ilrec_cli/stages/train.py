"""Data, identifiers and a collaborative model -> a fine-tuned language model."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np

from ilrec_cli import artifacts, folders, plugins
from ilrec_cli import config as configs
from ilrec_cli.console import Console
from ilrec_cli.interrupt import Stopped
from ilrec_cli.lm import backbone
from ilrec_cli.lm.loop import Job, Loop
from ilrec_cli.settings import Train
from ilrec_cli.stages import _inputs, _job, _run_folder
from ilrec_cli.stages._job import Task

RATES = {"tiny": 2e-3, "full": 5e-5, "lora": 1e-4}  # LC-Rec's full fine-tuning, BIGRec's LoRA; tiny: ours


def run(config: Train) -> dict[str, Any]:
    """Train, write WORK/DATASET/runs/NAME/train, print where it lies."""
    console = Console.of(config)
    task = _task(config)
    config = task.settings
    name = config.name or f"{config.method}-{configs.fingerprint(_run_folder.identity(task))}-s{config.seed}"
    folder = _inputs.dataset_dir(config) / "runs" / folders.plain_name(name, "--name") / "train"
    if _run_folder.is_finished(folder, task):
        console.say(f"Already trained: {folder}\nNext: ilrec evaluate {_inputs.flags(config)} --run {name}")
        return {"path": str(folder), "name": name, "trained": False}
    job, accelerator, opened = _job.prepare(task, folder)
    _describe(job, console)
    with _run_folder.opened(folder, task) if accelerator.is_main_process else nullcontext():
        accelerator.wait_for_everyone()
        try:
            progress = Loop(job, accelerator, console).run()
        except Stopped as stopped:
            console.say(f"\n{stopped}")
            raise
        if accelerator.is_main_process:
            shutil.rmtree(folder / "model", ignore_errors=True)
            backbone.save(opened, folder / "model")
            layers = {"candidate_layers": list(job.model.inner_layers)} if job.model.inner_layers else {}
            artifacts.write_json(folder / "layout.json", job.examples.layout.as_dict() | layers)
            if job.model.layer_heads is not None:
                job.model.layer_heads.save(folder)
            _run_folder.finish(folder, task)
        accelerator.wait_for_everyone()
    console.say(
        f"\nBest validation NDCG@10 {progress.best:.4f} at step {progress.best_step}; {progress.seconds:.0f} s\n"
        f"Run: {folder}\nNext: ilrec evaluate {_inputs.flags(config)} --run {name}"
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
    return Task(config, method, options, needs, parents, recorded)


def _describe(job: Job, console: Console) -> None:
    model, settings = job.model, job.settings
    every = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    layers = f", candidate layers {', '.join(map(str, model.inner_layers))}" if model.inner_layers else ""
    console.say(f"{settings.method} on {settings.backbone}: {every:,} parameters, {trained:,} trained{layers}")
    console.say(f"{len(job.examples):,} examples, {job.examples.targets(np.arange(len(job.examples))):,} targets")
