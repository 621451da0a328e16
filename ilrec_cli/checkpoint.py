"""Checkpoints: one safetensors file with trainable weights, buffers, optimiser state and, as JSON, the place in the run.

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

from ilrec_cli.console import Console
from ilrec_cli.errors import UserError


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that are trained, by name; tied ones appear once."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def buffers(model: nn.Module) -> dict[str, Tensor]:
    """What a model keeps besides parameters, by name."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return {name: tensor for name, tensor in model.state_dict().items() if name not in parameters}


def save(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None, state: dict[str, Any]) -> None:
    """Write all of it to `path` at once."""
    tensors = {f"model.{name}": _kept(tensor) for name, tensor in buffers(model).items()}
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
        for name, tensor in (parameters | buffers(model)).items():
            if f"model.{name}" not in names:
                raise UserError(f"{path}: no weights for '{name}': the checkpoint is of another model")
            tensor.copy_(file.get_tensor(f"model.{name}"))
        if optimizer is not None:
            for key in names:
                if key.startswith("optimizer."):
                    name, _, entry = key.removeprefix("optimizer.").rpartition("|")
                    value, parameter = file.get_tensor(key), parameters[name]
                    # Only a fused optimiser counts its steps where the weights are.
                    stays = entry == "step" and not optimizer.defaults.get("fused")
                    optimizer.state[parameter][entry] = value if stays else value.to(parameter.device)
        return dict(json.loads(file.metadata()["state"]))


def read_state(path: Path) -> dict[str, Any]:
    """The state alone, without the tensors."""
    with _opened(path) as file:
        return dict(json.loads(file.metadata()["state"]))


def resumable(path: Path, identity: dict[str, Any], console: Console) -> dict[str, Any]:
    """The state of a run that is to go on; `UserError` if there is none, or if it is of another configuration."""
    if not path.is_file():
        raise UserError(f"--resume: there is no checkpoint in {path.parent}. Start without --resume")
    state = read_state(path)
    refuse_other(state.pop("identity"), identity)
    if state["threads"] != torch.get_num_threads():
        console.warn(
            f"the run began with {state['threads']} threads and goes on with {torch.get_num_threads()}: the last bits of "
            "its weights can differ"
        )
    return state


def refuse_other(then: dict[str, Any], identity: dict[str, Any]) -> None:
    """`UserError` with the first setting by which a run that is to go on differs from the one that was begun."""
    for key in sorted(then.keys() | identity.keys()):
        if then.get(key) != identity.get(key):
            raise UserError(
                f"--resume: {key} is {identity.get(key)!r}, the checkpoint has {then.get(key)!r}. Give the same, or start "
                "again with --overwrite"
            )


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(str(path), framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise UserError(f"{path}: the checkpoint is damaged ({error}). Start again with --overwrite") from error


def _kept(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().clone()
