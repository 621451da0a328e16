"""Starting from a run instead of a backbone, --from: what is taken over from it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ilrec_cli import artifacts
from ilrec_cli import config as configs
from ilrec_cli.artifacts import Artifact
from ilrec_cli.console import Console
from ilrec_cli.errors import UserError
from ilrec_cli.methods._phase import Phase
from ilrec_cli.settings import Train
from ilrec_cli.stages import _inputs

# What a model that is trained already decides. A setting that is given otherwise is refused.
TAKEN = ("backbone", "hidden_size", "n_layers", "n_heads", "inner_size", "tuning", "lora_r", "lora_alpha", "lora_dropout",
         "lora_targets", "lora_rslora", "quantize", "targets", "tasks", "chat", "prompt", "vocab_scope")  # fmt: skip


def taken_over(config: Train, data: Artifact) -> tuple[Train, Artifact, Artifact]:
    """(settings with the run's own, the run, its identifiers); `UserError` where what was asked for does not fit."""
    root = _inputs.dataset_dir(config) / "runs"
    path = _inputs.pick(root, _inputs.finished(root, "run"), str(config.from_), "run", _inputs.MADE_BY["run"])
    run = artifacts.read(path, "run")
    run.require_parent(data, "data")
    if config.ids is None:
        ids = _inputs.ids_of_run(config, run, data)
    else:
        ids = _inputs.read_ids(config, data, config.ids)
        run.require_parent(ids, "ids")
    recorded = {name: value for name, value in run.config.items() if name in TAKEN}
    theirs = configs.build(Train, {"dataset": config.dataset, **recorded}, f"run '{run.name}'")
    fields = {field.name: field for field in configs.fields(Train)}
    for name in TAKEN:
        asked, has = getattr(config, name), getattr(theirs, name)
        if asked not in (fields[name].default, has):
            raise UserError(
                f"--from {config.from_}: run '{run.name}' has --{name.replace('_', '-')} {_shown(has)}, {_shown(asked)} was asked for. "
                "Leave it out, or start from a run that has it"
            )
    return replace(config, **{name: getattr(theirs, name) for name in TAKEN}), run, ids


def warn_of_unused(config: Train, phases: list[Phase]) -> None:
    """Say so where a rate was given that no phase will use, because those that are left have their own."""
    left = [phase for phase in phases if not phase.start]
    if config.learning_rate is not None and all(phase.learning_rate for phase in left):
        Console.of(config).warn(
            f"--learning-rate is that of the fine-tuning which --from {config.from_} leaves out; the rates of {config.method} are among "
            f"its options: ilrec methods {config.method}"
        )


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
