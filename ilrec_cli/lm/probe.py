"""Whether two forms of a model are the same: their logits on real prompts, position by position of a few answers.

Shapes: S tokens, N probed positions, V vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ilrec_cli.histories import Sequences
from ilrec_cli.lm.examples import Catalogue, Layout

PROBES = 4


class Probe(NamedTuple):
    """A prompt with an item's path after it."""

    input_S: Tensor
    answer: int  # tokens of the path


def probes(sequences: Sequences, max_history: int, items: Catalogue, layout: Layout) -> list[Probe]:
    """Prompts of a few users, spread over all that have a history, each with the item that came next."""
    long = np.flatnonzero(sequences.lengths >= 2)
    made = []
    for user in long[np.unique(np.linspace(0, len(long) - 1, PROBES).astype(int))]:
        *history, target = sequences.items[sequences.offsets[user] : sequences.offsets[user + 1]]
        prompt_1S, _ = layout.prompts(items, np.array([history[-max_history:]]))
        path = torch.from_numpy(items.token_ID[target][: items.length_I[target]])
        made.append(Probe(torch.cat([prompt_1S[0], path]), len(path)))
    return made


@torch.no_grad()
def logits(model: Any, found: list[Probe]) -> Tensor:
    """logits_NV before every token of the answers, in float32."""
    model.eval()
    device = next(model.parameters()).device
    rows = [
        model(input_ids=each.input_S[None].to(device)).logits[0, -each.answer - 1 : -1].float().cpu() for each in found
    ]
    return torch.cat(rows)
