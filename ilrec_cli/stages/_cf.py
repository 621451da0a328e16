"""What training and tuning of collaborative models share: the material from the data, a model with its settings."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ilrec_cli import config as configs
from ilrec_cli import plugins
from ilrec_cli.artifacts import Artifact
from ilrec_cli.cf._common import Facts
from ilrec_cli.cf._fit import Material, Note
from ilrec_cli.cf._rank import Events
from ilrec_cli.console import Console
from ilrec_cli.errors import UserError
from ilrec_cli.histories import training_windows
from ilrec_cli.stages import _inputs, _models


def material(data: Artifact, limit_users: int | None, seed: int) -> Material:
    """Training windows and validation events; test events are not read."""
    about, sequences = _models.facts(data), _inputs.sequences(data)
    start, stop = _inputs.training_part(data)
    if limit_users is not None:
        chosen = np.random.default_rng(seed).permutation(len(sequences))[:limit_users]
        stop = np.where(np.isin(np.arange(len(sequences)), chosen), stop, 0)
    windows = training_windows(sequences, stop, about.max_history, start)
    if not len(windows):
        raise UserError(f"{data.path}: there is no training target (users need at least 4 interactions for one)")
    _, user, end = _inputs.events(data, "valid")
    return Material(sequences, windows, Events(user, end), about)


def options(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """All options of a model: the given ones checked, the others by default."""
    return configs.as_dict(configs.build(plugins.load("cf", name).Config, given, f"collaborative model '{name}'"))


def new_model(name: str, chosen: dict[str, Any], about: Facts, seed: int, device: torch.device) -> Any:
    """A model with its first weights, which the seed alone decides."""
    torch.manual_seed(seed)
    model, _ = _models.build_cf(name, chosen, about)
    return model.to(device)


def say_epoch(console: Console) -> Note:
    """A line for every epoch."""

    def note(row: dict[str, Any]) -> None:
        best = "  best" if row["best"] else ""
        console.say(
            f"epoch {row['epoch']:>3}  loss {row['loss']:.4f}  validation NDCG@10 {row['valid_ndcg@10']:.4f}  "
            f"Hit@10 {row['valid_hit@10']:.4f}{best}"
        )

    return note
