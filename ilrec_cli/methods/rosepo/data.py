"""One hard negative for every target, and how sure the oracle is. Shapes: E targets, B of them, I items."""

from __future__ import annotations

import numpy as np
import torch

from ilrec_cli.lm.phases import Material
from ilrec_cli.lm.preference import Pairs, Prompts
from ilrec_cli.methods import _negatives, _pairs
from ilrec_cli.methods._preference import SMOOTHING
from ilrec_cli.methods.rosepo import Config

CHUNK_SCORES = 8_000_000  # collaborative scores that exist at a time


def pairs(material: Material) -> Pairs:
    """The phase's rows."""
    return _pairs.pairs(material, _draw)


def _draw(material: Material, prompts: Prompts, rng: np.random.Generator) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    options: Config = material.options
    if options.rejected == "self_hard":
        item_EJ = _negatives.own_mistakes(material, prompts, options.beams, options.near, 1, rng)
    elif options.rejected == "semantic":
        vector_ID = _pairs.item_vectors(material, prompts.catalogue)
        item_EJ = _negatives.similar(prompts, vector_ID, options.near, 1, rng)
    else:
        # One more for each: an item that training never saw can be drawn too.
        weight_I = material.popularity_I + 1.0
        item_EJ = _negatives.drawn(prompts, 1, rng, weight_I=weight_I)
    if options.smoothing == "constant":
        return item_EJ, {}
    return item_EJ, {SMOOTHING: smoothing(material, prompts, item_EJ)}


@torch.no_grad()
def smoothing(material: Material, prompts: Prompts, item_EJ: np.ndarray) -> np.ndarray:
    """eps_EJ = sigma(phi(rejected) - phi(target)), at most `cap`; phi: scores for the history that the prompt shows."""
    assert material.scorer is not None
    device, parts = material.parallel.device, []
    size = max(1, CHUNK_SCORES // len(material.popularity_I))
    for start in range(0, len(prompts), size):
        rows = np.arange(start, min(start + size, len(prompts)))
        score_BI = material.scorer(torch.from_numpy(prompts.items(rows)).to(device))
        item_BR = torch.from_numpy(np.concatenate([prompts.targets()[rows, None], item_EJ[rows]], axis=1)).to(device)
        score_BR = score_BI.gather(1, item_BR).double()
        parts.append(
            (score_BR[:, 1:] - score_BR[:, :1]).sigmoid().clamp(max=material.options.cap).float().cpu().numpy()
        )
    return np.concatenate(parts)
