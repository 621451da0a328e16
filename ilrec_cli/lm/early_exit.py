"""A language model that ends after an intermediate layer: blocks 1 to l, final norm, head. The weights are shared."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from ilrec_cli.errors import UserError
from ilrec_cli.lm.logits import language_model
from ilrec_cli.lm.model import decoder, final_norm


def early_exit(model: Any, layer: int, norm: nn.Module | None = None) -> Any:
    """The model whose logits are phi of layer l's output (eq. 2), at the cost of l blocks.

    `norm` stands in for the final norm: the layer's own, with the adapter of its head (`lm/heads.py`).
    Only modules on the way to the blocks are copied, shallowly; the model itself is untouched.
    """
    inner = language_model(model)
    stack = decoder(inner)
    depth = inner.config.get_text_config().num_hidden_layers
    if not 1 <= layer <= depth:
        raise UserError(f"--exit-layer {layer}: the model has layers 1 to {depth}")
    name, blocks = _blocks(stack, depth)
    cut = _shallow(stack)
    setattr(cut, name, nn.ModuleList(list(blocks)[:layer]))
    if norm is not None:
        setattr(cut, _path(stack, final_norm(inner))[-1], norm)
    return _replaced(inner, _path(inner, stack), cut)


def _blocks(stack: nn.Module, depth: int) -> tuple[str, nn.ModuleList]:
    for name, module in stack.named_children():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return name, module
    raise UserError(f"--exit-layer: {type(stack).__name__} has no list of {depth} blocks that ilrec knows")


def _path(model: nn.Module, part: nn.Module) -> list[str]:
    return next(name for name, module in model.named_modules() if module is part).split(".")


def _replaced(module: nn.Module, path: list[str], part: nn.Module) -> Any:
    """A shallow copy in which the module at a path is another."""
    found = _shallow(module)
    inside = part if len(path) == 1 else _replaced(module.get_submodule(path[0]), path[1:], part)
    setattr(found, path[0], inside)
    return found


def _shallow(module: nn.Module) -> nn.Module:
    found = copy.copy(module)
    found._modules = dict(module._modules)  # copy.copy shares the table of submodules
    return found
