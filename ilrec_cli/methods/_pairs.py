"""The data of a phase of preference pairs: negatives and the reference's scores, made when it begins and kept.

Shapes: E training targets, R responses (the chosen item first), J = R - 1 rejected ones, I items, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ilrec_cli import checkpoint
from ilrec_cli.lm.backbone import causal_lm
from ilrec_cli.lm.examples import Catalogue
from ilrec_cli.lm.phases import Material
from ilrec_cli.lm.preference import Pairs, Prompts, branches, prompts_of, scored
from ilrec_cli.methods import _negatives
from ilrec_cli.methods._preference import REFERENCE

# What a method draws: item_EJ, and by name what each row carries besides.
Draw = Callable[[Material, Prompts, np.random.Generator], tuple[np.ndarray, dict[str, np.ndarray]]]
ITEMS = "items"


def pairs(material: Material, draw: Draw) -> Pairs:
    """A row for every training target; the reference is the model with which the phase begins."""
    prompts, branched = prompts_of(material), branches(material)

    def source(item_ER: np.ndarray, extra: dict[str, np.ndarray]) -> Pairs:
        return Pairs(prompts, item_ER, branched, extra)

    def make() -> dict[str, np.ndarray]:
        rng = np.random.default_rng([material.settings.seed, material.phase])
        rejected_EJ, extra = draw(material, prompts, rng)
        item_ER = np.concatenate([prompts.targets()[:, None], rejected_EJ], axis=1).astype(np.int64)
        return {ITEMS: item_ER, REFERENCE: scored(material, source(item_ER, {})), **extra}

    kept = material.kept(make)
    return source(kept[ITEMS], {name: values for name, values in kept.items() if name != ITEMS})


def random_pairs(material: Material) -> Pairs:
    """`options.negatives` items outside the user's training part, uniform."""

    def draw(material: Material, prompts: Prompts, rng: np.random.Generator) -> tuple[np.ndarray, dict[str, Any]]:
        return _negatives.drawn(prompts, material.options.negatives, rng), {}

    return pairs(material, draw)


def item_vectors(material: Material, catalogue: Catalogue) -> np.ndarray:
    """vector_ID that the identifiers were made from; where they keep none, the mean embedding of the item's tokens."""
    if material.vectors is not None:
        return material.vectors()
    embedding = causal_lm(material.parallel.model.backbone).get_input_embeddings()
    weight_VD = checkpoint.whole(embedding.weight.detach()).float().cpu()
    own = torch.from_numpy(np.arange(catalogue.token_ID.shape[1]) < catalogue.length_I[:, None] - 1)[:, :, None]
    vector_ITD = weight_VD[torch.from_numpy(np.maximum(catalogue.token_ID, 0))] * own
    return np.asarray((vector_ITD.sum(1) / own.sum(1)).numpy())
