"""Free tokens between a prompt and its answer ("reasoning"): the model's own, up to its end token or a limit.

Shapes: B prompts, S prompt tokens, R thoughts of each, T tokens of the longest thought, padded with -1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ilrec_cli.lm.generate import generate


def likeliest(
    model: Any, input_BS: Tensor, mask_BS: Tensor, *, tokens: int, end_token: int
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(input_BS, mask_BS) of the prompts with a thought behind each, token by token the likeliest."""
    thought_B1T, _ = generate(model, input_BS, mask_BS, beams=1, max_new_tokens=tokens, end_token=end_token)
    return behind(input_BS, mask_BS, thought_B1T)


def behind(input_BS: Tensor, mask_BS: Tensor, thought_BRT: Tensor) -> tuple[Tensor, Tensor]:
    """(input_NS, mask_NS), N = B * R: every prompt with each of its thoughts, padded on the left."""
    thoughts = thought_BRT.shape[1]
    input_NS = torch.cat([input_BS.repeat_interleave(thoughts, 0), thought_BRT.flatten(0, 1)], 1)
    mask_NS = torch.cat([mask_BS.repeat_interleave(thoughts, 0), (thought_BRT.flatten(0, 1) >= 0).long()], 1)
    order_NS = torch.argsort(mask_NS, dim=1, stable=True)  # what is masked comes first
    return input_NS.gather(1, order_NS).clamp(min=0), mask_NS.gather(1, order_NS)
