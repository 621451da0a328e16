"""What a round trains on. Shapes: E targets, J = 1 negative of each."""

from __future__ import annotations

import numpy as np

from ilrec_cli.lm.phases import Material
from ilrec_cli.lm.preference import Pairs, next_item, prompts_of
from ilrec_cli.lm.steps import Source
from ilrec_cli.methods import _negatives, _pairs

REJECTED = "rejected"


def generated(material: Material) -> Source:
    """The next-item task; before its first step the model recommends, and that is kept for the pairs."""

    def make() -> dict[str, np.ndarray]:
        prompts = prompts_of(material)
        rng = np.random.default_rng([material.settings.seed, material.phase])
        return {REJECTED: _negatives.own_mistakes(material, prompts, material.options.beams, 1, 1, rng)}

    material.kept(make)
    return next_item(material)


def pairs(material: Material) -> Pairs:
    """Each target and what the model recommended before the round's fine-tuning."""
    return _pairs.pairs(material, lambda material, prompts, rng: (material.earlier(1)[REJECTED], {}))
