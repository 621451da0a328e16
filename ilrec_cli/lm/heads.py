"""Heads of intermediate layers with parameters of their own.

Shapes: N positions, D width, R rank, K candidate layers.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import torch
from torch import Tensor, nn

from ilrec_cli.errors import UserError

FILE = "layer_heads.safetensors"


class LayerHead(nn.Module):
    """Of one layer: a norm, and a low-rank adapter on the input side of the model's head; together phi's norm at first.

    The head is W (I + U D) norm(h) with the model's own W, which gets no gradient here. Adapted on its input side, it
    has a size that does not grow with the vocabulary, and all layers still share one product with W. (The tuned lens,
    arXiv 2303.08112, translates hidden states in the same place.)
    """

    def __init__(self, norm: nn.Module, rank: int, generator: torch.Generator):
        super().__init__()
        weight = next(norm.parameters(), None)
        if weight is None:
            raise UserError(
                f"layer_head = separate gives layers copies of the final norm, and a {type(norm).__name__} has no weights; "
                "use layer_head = shared"
            )
        # At least float32: bfloat16 weights swallow small updates.
        dtype, width = torch.promote_types(weight.dtype, torch.float32), len(weight)
        self.norm = copy.deepcopy(norm).to(dtype).requires_grad_(True)
        drawn_RD = torch.randn(rank, width, generator=generator) / width**0.5
        self.down_RD = nn.Parameter(drawn_RD.to(weight.device, dtype))
        self.up_DR = nn.Parameter(torch.zeros(width, rank, dtype=dtype, device=weight.device))

    def forward(self, hidden: Tensor) -> Tensor:
        """What the model's head takes, from hidden states [..., D] that are not normed."""
        normed = self.norm(hidden.to(self.down_RD.dtype))
        return (normed + normed @ self.down_RD.T @ self.up_DR.T).to(hidden.dtype)


class LayerHeads(nn.Module):
    """The heads of all candidate layers, `layers`."""

    def __init__(self, layers: tuple[int, ...], norm: nn.Module, rank: int, seed: int = 0):
        super().__init__()
        self.layers, self.rank = layers, rank
        generator = torch.Generator().manual_seed(seed)
        self.heads = nn.ModuleList([LayerHead(norm, rank, generator) for _ in layers])

    def forward(self, inner_KND: Tensor) -> Tensor:
        """What the model's head takes, of every candidate layer."""
        return torch.stack([head(h_ND) for head, h_ND in zip(self.heads, inner_KND, strict=True)])

    def of(self, layer: int) -> nn.Module | None:
        """The head of a layer, where it has one."""
        return self.heads[self.layers.index(layer)] if layer in self.layers else None

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
