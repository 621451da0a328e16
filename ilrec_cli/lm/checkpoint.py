"""Checkpoints: one safetensors file with trainable weights, optimiser state and, as JSON, the place in the run.

Replaced atomically: whatever is killed, the file before stays whole. Nothing is pickled.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ilrec_cli.errors import UserError


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that are trained, by name; tied ones appear once."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def save(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None, state: dict[str, Any]) -> None:
    """Write all of it to `path` at once."""
    tensors = {}
    for name, parameter in trainable(model).items():
        tensors[f"model.{name}"] = _kept(parameter)
        if optimizer is not None:
            tensors |= {f"optimizer.{name}|{key}": _kept(value) for key, value in optimizer.state[parameter].items()}
    aside = path.with_name(f".{path.name}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        save_file(tensors, str(aside), metadata={"state": json.dumps(state)})
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def load(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None) -> dict[str, Any]:
    """Put what `save` wrote back in place; returns the state."""
    parameters = trainable(model)
    with _opened(path) as file, torch.no_grad():
        names = set(file.keys())
        for name, parameter in parameters.items():
            if f"model.{name}" not in names:
                raise UserError(f"{path}: no weights for '{name}': the checkpoint is of another model")
            parameter.copy_(file.get_tensor(f"model.{name}"))
        if optimizer is not None:
            for key in names:
                if key.startswith("optimizer."):
                    name, _, entry = key.removeprefix("optimizer.").rpartition("|")
                    optimizer.state[parameters[name]][entry] = _placed(file.get_tensor(key), parameters[name], entry)
        return dict(json.loads(file.metadata()["state"]))


def read_state(path: Path) -> dict[str, Any]:
    """The state alone, without the tensors."""
    with _opened(path) as file:
        return dict(json.loads(file.metadata()["state"]))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(str(path), framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise UserError(f"{path}: the checkpoint is damaged ({error}). Start again with --overwrite") from error


def _kept(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().clone()


def _placed(value: Tensor, parameter: nn.Parameter, entry: str) -> Tensor:
    return value if entry == "step" else value.to(parameter.device)
