"""Heads of intermediate layers with parameters of their own, and the rows of a head that a restricted vocabulary needs.

Shapes: N positions, D width, R rank, V tokens in scope, K candidate layers.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ilrec_cli.errors import UserError

FILE = "layer_heads.safetensors"


class LayerHeads(nn.Module):
    """Per candidate layer a norm and a low-rank adapter of the head, all the identity at first.

    The head of layer l is W (I + U_l D_l) norm_l(h) with the model's own W, which gets no gradient here: adapters of W
    as in LoRA, but on its input side, so that their size does not grow with the vocabulary and all layers still go
    through one product with W. (The tuned lens, arXiv 2303.08112, translates hidden states in the same place.)
    """

    down_KRD: nn.Parameter
    up_KDR: nn.Parameter

    def __init__(self, layers: tuple[int, ...], norm: nn.Module, rank: int, seed: int = 0):
        super().__init__()
        self.layers, self.rank = layers, rank
        weight = next(norm.parameters()).detach()
        # At least float32: bfloat16 weights swallow small updates.
        dtype, width = torch.promote_types(weight.dtype, torch.float32), len(weight)
        norms = (copy.deepcopy(norm).to(dtype).requires_grad_(True) for _ in layers)
        self.norms = nn.ModuleList(norms)
        drawn = torch.randn(len(layers), rank, width, generator=torch.Generator().manual_seed(seed)) / width**0.5
        self.down_KRD = nn.Parameter(drawn.to(weight.device, dtype))
        self.up_KDR = nn.Parameter(torch.zeros(len(layers), width, rank, dtype=dtype, device=weight.device))

    def forward(self, inner_KND: Tensor) -> Tensor:
        """What the head takes, from the hidden states of all candidate layers, not normed."""
        return torch.stack([self.one(layer, h_ND) for layer, h_ND in zip(self.layers, inner_KND, strict=True)])

    def one(self, layer: int, hidden: Tensor) -> Tensor:
        """The same for one layer: hidden states of any shape [..., D]."""
        place = self.layers.index(layer)
        normed = self.norms[place](hidden.to(self.down_KRD.dtype))
        adapted = normed + normed @ self.down_KRD[place].T @ self.up_KDR[place].T
        return adapted.to(hidden.dtype)

    def save(self, folder: Path) -> None:
        """Write `layer_heads.safetensors`: weights, and as metadata what they belong to."""
        from safetensors.torch import save_file

        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        about = json.dumps({"layers": list(self.layers), "rank": self.rank})
        save_file(tensors, str(folder / FILE), metadata={"layer_heads": about})


def open_heads(folder: Path, norm: nn.Module) -> LayerHeads | None:
    """What `save` wrote, frozen; None where a run has no heads of layers. `norm` is the model's final norm."""
    from safetensors import safe_open

    path = folder / FILE
    if not path.is_file():
        return None
    with safe_open(str(path), framework="pt") as file:
        about = json.loads(file.metadata()["layer_heads"])
        heads = LayerHeads(tuple(about["layers"]), norm, about["rank"])
        heads.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 (not a dict)
    return heads.eval().requires_grad_(False)


def head_rows(head: Any, token_V: Tensor, *, detach: bool = False) -> tuple[Tensor, Tensor | None]:
    """(weight_VD, bias_V or None) of some tokens; gradients reach the head's own weights, or nothing."""
    if type(head).__module__.startswith("peft.tuners.lora"):
        raise UserError("--vocab-scope ids: the head has an adapter; leave lm_head out of --lora-targets")
    weight_VD = head.weight.index_select(0, token_V)
    bias = getattr(head, "bias", None)  # a head whose rows PEFT trains has no attribute of that name
    bias_V = None if bias is None else bias.index_select(0, token_V)
    return (weight_VD.detach(), None if bias_V is None else bias_V.detach()) if detach else (weight_VD, bias_V)
