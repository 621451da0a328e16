"""Data, identifiers and a collaborative model -> a fine-tuned language model."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from ilrec_cli import artifacts, folders
from ilrec_cli import config as configs
from ilrec_cli.console import Console
from ilrec_cli.interrupt import Stopped
from ilrec_cli.lm import backbone, cost
from ilrec_cli.lm.loop import Progress
from ilrec_cli.lm.phases import run_phases
from ilrec_cli.settings import Train
from ilrec_cli.stages import _inputs, _job, _processes, _run_folder, _task, _tasks
from ilrec_cli.stages._job import Prepared, Task


def run(config: Train) -> dict[str, Any]:
    """Train, write WORK/DATASET/runs/NAME/train, print where it lies."""
    console = Console.of(config)
    task = _task.worded(_task.decided(config))
    config = task.settings
    name = config.name or f"{config.method}-{configs.fingerprint(_run_folder.identity(task))}-s{config.seed}"
    task = _task.based(task)
    folder = _inputs.dataset_dir(config) / "runs" / folders.plain_name(name, "--name") / "train"
    if _run_folder.is_finished(folder, task):
        console.say(f"Already trained: {folder}\nNext: ilrec evaluate {_inputs.flags(config)} --run {name}")
        return {"path": str(folder), "name": name, "trained": False}
    prepared = _job.prepare(task, folder)
    parallel = prepared.parallel
    _describe(prepared, config, console)
    with _run_folder.opened(folder, task) if parallel.main else nullcontext():
        parallel.wait()
        try:
            progress = _train(prepared, task, folder, console)
        except Stopped as stopped:
            console.say(f"\n{stopped}")
            raise
        parallel.unshard_for_saving()
        if parallel.main:
            model = parallel.model
            with folders.aside(folder / "model") as aside:
                backbone.save(prepared.backbone, aside)
                folders.replace(aside, folder / "model")
            layers = {"candidate_layers": list(model.inner_layers)} if model.inner_layers else {}
            artifacts.write_json(
                folder / "layout.json",
                prepared.examples.layout.as_dict()
                | layers
                | _tasks.record(config, prepared.backbone.tokenizer, task.parents.get("from")),
            )
            _write_costs(folder, task, progress)
            if model.layer_heads is not None:
                model.layer_heads.save(folder)
            _run_folder.finish(folder, task)
        parallel.wait()
    console.say(
        f"\nBest validation NDCG@10 {progress.best:.4f} at step {progress.before + progress.best_step}; {progress.seconds:.0f} s\n"
        f"Run: {folder}\nNext: ilrec evaluate {_inputs.flags(config)} --run {name}"
    )
    return {"path": str(folder), "name": name, "trained": True, "best_valid_ndcg@10": progress.best,
            "best_step": progress.before + progress.best_step, "steps": progress.all_steps, "seconds": progress.seconds}  # fmt: skip


def _train(prepared: Prepared, task: Task, folder: Path, console: Console) -> Progress:
    identity = _run_folder.identity(task)
    with _processes.tracked(prepared.parallel.accelerator, folder.parent.name, task.recorded):
        return run_phases(
            prepared.phases, folder, identity, console, parallel=prepared.parallel, resume=task.settings.resume
        )


def _write_costs(folder: Path, task: Task, progress: Progress) -> None:
    """cost.json: a row for every phase, those of the run that this one starts from before them, and sums."""
    before: list[dict[str, Any]] = []
    if "from" in task.parents and (task.parents["from"].path / "cost.json").is_file():
        found = task.parents["from"].json("cost.json")
        before = found["before"] + found["phases"]
    artifacts.write_json(
        folder / "cost.json",
        {"before": before, "phases": progress.costs, "total": cost.total(before + progress.costs)},
    )


def _describe(prepared: Prepared, settings: Train, console: Console) -> None:
    model, examples = prepared.parallel.model, prepared.examples
    every = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    layers = f", candidate layers {', '.join(map(str, model.inner_layers))}" if model.inner_layers else ""
    console.say(f"{settings.method} on {settings.backbone}: {every:,} parameters, {trained:,} trained{layers}")
    if prepared.rows is None:
        console.say(f"{len(examples):,} examples, {examples.targets(np.arange(len(examples))):,} targets")
        return
    rows = prepared.rows
    tasks = ", ".join(f"{name} {count:,}" for name, count in zip(rows.names, rows.wanted, strict=True))
    console.say(f"{len(rows):,} examples an epoch: {tasks}")
    for note in prepared.notes:
        console.say(note)
