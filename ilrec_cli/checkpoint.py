"""Checkpoints: one safetensors file with trainable weights, buffers, optimiser state and, as JSON, the place in the run.

Replaced atomically: whatever is killed, the file before stays whole. One format for one process, copies and shards, so a
run goes on in another mode too. Nothing is pickled.
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


def save(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None, state: dict[str, Any], *,
    write: bool = True, keep: bool = False,
) -> None:  # fmt: skip
    """Write all of it to `path` at once; with `keep`, the file that was there becomes `previous`.

    Where the model is sharded, every process must call it, and the one with `write` does the writing.
    """
    parameters = trainable(model)
    named = [(f"model.{name}", tensor) for name, tensor in (buffers(model) | parameters).items()]
    if optimizer is not None:
        for name, parameter in parameters.items():
            named += [(f"optimizer.{name}|{key}", value) for key, value in sorted(optimizer.state[parameter].items())]
    tensors = {}
    for name, tensor in named:
        full = whole(tensor.detach())
        if write:
            tensors[name] = full.cpu().contiguous().clone()
    if write:
        write_tensors(path, tensors, state, keep=keep)


def write_tensors(path: Path, tensors: dict[str, Tensor], state: dict[str, Any], *, keep: bool = False) -> None:
    """A file of tensors with some JSON: whole, or not there."""
    aside = path.with_name(f".{path.name}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        save_file(tensors, str(aside), metadata={"state": json.dumps(state)})
        _sync(aside)  # on the disk before it gets its name: a loss of power leaves no empty file there
        if keep and is_readable(path):
            os.replace(path, previous(path))
        os.replace(aside, path)
        _sync(path.parent)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def last(folder: Path) -> Path:
    """Where the newest checkpoint of a run in `folder` lies."""
    return folder / "checkpoints" / "last.safetensors"


def previous(path: Path) -> Path:
    """The checkpoint before `path`, for the day when that one cannot be read."""
    return path.with_name("previous.safetensors")


def load(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None) -> dict[str, Any]:
    """Put what `save` wrote back in place, sharded or not; returns the state."""
    parameters = trainable(model)
    with _opened(path) as file, torch.no_grad():
        keys = sorted(file.keys())  # sharded tensors are filled together: in the same order on every process
        names = set(keys)
        for name, tensor in (parameters | buffers(model)).items():
            if f"model.{name}" not in names:
                raise UserError(f"{path}: no weights for '{name}': the checkpoint is of another model")
            tensor.copy_(_like(tensor, file.get_tensor(f"model.{name}")))
        if optimizer is not None:
            for key in keys:
                if key.startswith("optimizer."):
                    name, _, entry = key.removeprefix("optimizer.").rpartition("|")
                    value, parameter = file.get_tensor(key), parameters[name]
                    if entry == "step":  # only a fused optimiser counts its steps where the weights are
                        fused = optimizer.defaults.get("fused")
                        optimizer.state[parameter][entry] = value.to(parameter.device) if fused else value
                    else:
                        optimizer.state[parameter][entry] = _like(parameter, value)
        return dict(json.loads(file.metadata()["state"]))


def read_state(path: Path) -> dict[str, Any]:
    """The state alone, without the tensors."""
    with _opened(path) as file:
        return dict(json.loads(file.metadata()["state"]))


def is_readable(path: Path) -> bool:
    """Whether a checkpoint is there, and whole."""
    try:
        read_state(path)
    except UserError:
        return False
    return True


def resumable(path: Path, identity: dict[str, Any], console: Console) -> tuple[Path, dict[str, Any]]:
    """(file, state) of a run that is to go on; `UserError` if there is none, or if it is of another configuration.

    The file before `path` stands in where that one is damaged, or where a kill fell between two renames.
    """
    path, state = _readable(path, console)
    refuse_other(state.pop("identity"), identity)
    if state["threads"] != torch.get_num_threads():
        console.warn(
            f"the run began with {state['threads']} threads and goes on with {torch.get_num_threads()}: the last bits of "
            "its weights can differ"
        )
    return path, state


def _readable(path: Path, console: Console) -> tuple[Path, dict[str, Any]]:
    before = previous(path)
    if not path.is_file() and not before.is_file():
        raise UserError(f"--resume: there is no checkpoint in {path.parent}. Start without --resume")
    if is_readable(path) or not before.is_file():
        return path, read_state(path)
    if path.is_file():
        console.warn(f"{path} is damaged; going on from the checkpoint before it")
    return before, read_state(before)


def refuse_other(then: dict[str, Any], identity: dict[str, Any]) -> None:
    """`UserError` with the first setting by which a run that is to go on differs from the one that was begun."""
    key, now, before = first_difference(then, identity)
    if key:
        raise UserError(
            f"--resume: {key} is {now!r}, the checkpoint has {before!r}. Give the same, or start again with --overwrite"
        )


def first_difference(then: dict[str, Any], identity: dict[str, Any]) -> tuple[str, Any, Any]:
    """(setting, its value in `identity`, in `then`) of the first one that differs; an empty name where none does."""
    then, identity = _flat(then), _flat(identity)
    then.setdefault("wording", identity.get("wording"))  # runs from before it was kept can go on
    if not then.get("backbone_version") or not identity.get("backbone_version"):
        # Not known of runs from before it was kept, nor of the Hub's weights until they are here.
        then["backbone_version"] = identity["backbone_version"] = None
    # Options depend on the method.
    every = sorted(then.keys() | identity.keys(), key=lambda key: (key != "method", key))
    keys = (key for key in every if then.get(key) != identity.get(key))
    key = next(keys, "")
    return key, identity.get(key), then.get(key)


def _flat(identity: dict[str, Any]) -> dict[str, Any]:
    """A plug-in's options one by one, as they are given."""
    options = identity.get("options") or {}
    return {**identity, "options": None, **{f"-o {name}": value for name, value in options.items()}}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(str(path), framework="pt") as file:
            yield file
    except FileNotFoundError as error:
        raise UserError(f"{path}: the checkpoint is missing. Start again with --overwrite") from error
    except SafetensorError as error:
        raise UserError(f"{path}: the checkpoint is damaged ({error}). Start again with --overwrite") from error


def _sync(path: Path) -> None:
    """Wait until a file or a folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sharded(tensor: Tensor) -> bool:
    # The class takes half a second to import, and without processes there is none of it.
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def whole(tensor: Any) -> Tensor:
    """The tensor itself; of a sharded one all shards, which every process must ask for."""
    return tensor.full_tensor() if _sharded(tensor) else tensor


def _like(pattern: Any, tensor: Tensor) -> Tensor:
    """A tensor where the pattern is, cut as the pattern is."""
    if not _sharded(pattern):
        return tensor.to(pattern.device)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(pattern.device), pattern.device_mesh, pattern.placements)
