"""Attention masks of one's own for stacks of blocks: which tokens each token sees, as what is added to its scores.

Shapes: Q sequences, W tokens that see, T tokens that are seen.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

KNOWN_KINDS = {"full_attention", "sliding_attention"}


def layer_kinds(config: Any) -> tuple[set[str], int | None]:
    """(kinds of attention layers, the window of those that have one)."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        return ({"full_attention"}, None) if window is None else ({"sliding_attention"}, window)
    return set(kinds), window if "sliding_attention" in kinds else None


def for_layers(config: Any, seen_QWT: Tensor, position_QW: Tensor, position_QT: Tensor, dtype: torch.dtype) -> Any:
    """Additive masks of shape [Q, 1, W, T]; one per kind of layer where some of them have a window."""
    kinds, window = layer_kinds(config)
    if window is None or int(position_QW.max()) < window:
        return additive(seen_QWT, dtype)
    near = position_QW[:, :, None] - position_QT[:, None] < window
    windowed = additive(seen_QWT & near, dtype)
    if kinds == {"sliding_attention"}:
        return windowed
    return {"full_attention": additive(seen_QWT, dtype), "sliding_attention": windowed}


def additive(seen_QWT: Tensor, dtype: torch.dtype) -> Tensor:
    """A float mask in the model's dtype: a boolean one is silently wrong under eager attention."""
    mask = torch.zeros(seen_QWT.shape, dtype=dtype, device=seen_QWT.device)
    return mask.masked_fill_(~seen_QWT, torch.finfo(dtype).min)[:, None]
