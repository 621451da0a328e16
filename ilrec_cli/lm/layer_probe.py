"""Statistics of layers, for the steps that are logged, and of tasks; without gradient.

Shapes: N positions, D width, V vocabulary, K candidate layers or probed ones.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ilrec_cli.errors import UserError
from ilrec_cli.lm.terms import Pair, Terms


def resolve(spec: tuple[str, ...], n_layers: int) -> tuple[int, ...]:
    """Layers to probe, ascending: () for none, ("all",), or numbers from 1, the first, to L, the last."""
    if spec == ("all",):
        return tuple(range(1, n_layers + 1))
    known = [int(part) for part in spec if part.isdecimal() and 1 <= int(part) <= n_layers]
    if len(known) < len(spec):
        wrong = next(part for part in spec if not (part.isdecimal() and 1 <= int(part) <= n_layers))
        raise UserError(f"--probe-layers {wrong}: expected all, or numbers from 1 to {n_layers}, the last layer")
    return tuple(sorted(set(known)))


@torch.no_grad()
def layer_statistics(model: Any, last_ND: Tensor, states: dict[int, Tensor], target_N: Tensor, size: int) -> Terms:
    """`layer_agreement` of the candidate layers, and `ce_layer_<l>` of the probed ones (the paper's Figure 2).

    `states` has the hidden states of both, not normed. One layer's logits exist at a time, of `size` positions.
    """
    total = Terms()
    if not states and not model.probed_layers:
        return total
    for start in range(0, max(len(target_N), 1), size):
        part = slice(start, start + size)
        final_NV = model.phi(last_ND[part], last_ND.new_zeros(0))[0]
        best_N, ce = final_NV.argmax(-1), {model.n_layers: _cross_entropy(final_NV, target_N[part])}
        same = []
        for layer, hidden_ND in states.items():
            logits_NV = model.layer_logits(layer, hidden_ND[part])
            ce[layer] = _cross_entropy(logits_NV, target_N[part])
            same += [logits_NV.argmax(-1) == best_N] if layer in model.inner_layers else []
        stats = {f"ce_layer_{layer}": ce[layer] for layer in model.probed_layers}
        if same:
            count = best_N.numel() * len(same)
            stats["layer_agreement"] = (torch.stack(same).sum().to(final_NV.dtype), final_NV.new_full((), count))
        total = total + Terms(stats=stats)
    return total


@torch.no_grad()
def task_statistics(names: tuple[str, ...], final_NV: Tensor, target_N: Tensor, task_N: Tensor) -> Terms:
    """`ce_<task>`: cross-entropy of the last layer at the positions of each task."""
    ce_N = F.cross_entropy(final_NV, target_N, reduction="none").double()
    sum_count_2K = ce_N.new_zeros(2, len(names)).index_add_(1, task_N, torch.stack([ce_N, torch.ones_like(ce_N)]))
    return Terms(stats={f"ce_{name}": (sum_count_2K[0, k], sum_count_2K[1, k]) for k, name in enumerate(names)})


def _cross_entropy(logits_NV: Tensor, target_N: Tensor) -> Pair:
    ce = F.cross_entropy(logits_NV, target_N, reduction="sum")
    return ce, ce.new_full((), len(target_N))
