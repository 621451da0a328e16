"""A training as asked for: open settings decided, inputs opened."""

from __future__ import annotations

from dataclasses import replace

from ilrec_cli import config as configs
from ilrec_cli import plugins
from ilrec_cli.errors import UserError
from ilrec_cli.lm import backbone, hub
from ilrec_cli.lm.candidates import TASK
from ilrec_cli.settings import Train
from ilrec_cli.stages import _inputs, _start, _tasks
from ilrec_cli.stages._job import Task

RATES = {"tiny": 2e-3, "full": 5e-5, "lora": 1e-4}  # LC-Rec's full fine-tuning, BIGRec's LoRA; tiny: ours


def decided(config: Train, *, rewards: bool = True) -> Task:
    """The run with every open setting decided and its inputs opened; `rewards`: the collaborative model too."""
    method = plugins.load("methods", config.method)
    options = configs.build(method.Config, config.options, f"method '{config.method}'")
    data, parents = _inputs.read_data(config), {}
    if config.from_ is not None:
        _start.warn_of_unused(config, method.phases(options))
        config, parents["from"], ids = _start.taken_over(config, data)
    else:
        ids = _inputs.read_ids(config, data, config.ids)
    tiny = backbone.is_tiny(config.backbone)
    rate = config.learning_rate or RATES["tiny" if tiny else config.tuning]
    parents = {"data": data, "ids": ids, **parents}
    config = replace(_tasks.decided(config, data, ids), method=plugins.short_name(method), learning_rate=rate)
    needs = method.needs(options)
    if config.tasks == (TASK,) and not all(
        phase.data == "next_item" or phase.chooses for phase in method.phases(options)
    ):
        raise UserError(
            f"--tasks candidates: {config.method} makes rows of the next-item task; use sft, ilrec, or a method of pairs"
        )
    if rewards and {"cf_scores", "cf_oracle", "cf_reward"} & set(needs):
        parents["cf"] = _inputs.read_cf(config, data, config.cf)
    recorded = {**configs.as_dict(config, control=False), "options": configs.as_dict(options)}
    return Task(config, method, options, needs, parents, recorded)


def based(task: Task) -> Task:
    """The same run, with the version of the weights that it starts from as part of what it is, where they are here.

    No part of its name: weights of the Hub have a version from the second time on.
    """
    version = base_version(task.settings)
    return task if version is None else task._replace(recorded=task.recorded | {"backbone_version": version})


def base_version(settings: Train) -> str | None:
    """Of the weights that a run starts from; None of a model from scratch, of a run, and of what is not here yet."""
    other = settings.from_ is not None or backbone.is_tiny(settings.backbone)
    return None if other else hub.version(settings.backbone)


def worded(task: Task) -> Task:
    """The same run, with the wording of its prompts as part of what it is."""
    start = task.parents.get("from")
    phases = [phase for phase in task.method.phases(task.options) if not (phase.start and start is not None)]
    tasks = task.settings.tasks
    # From texts, and not from the tokens of the run that this one starts from.
    makes_rows = tasks == (TASK,) or (bool(tasks) and any(phase.data == "next_item" for phase in phases))
    return task._replace(recorded=task.recorded | _tasks.wording(task.settings, start, makes_rows=makes_rows))
