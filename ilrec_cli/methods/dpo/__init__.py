"""Direct preference optimisation: each target preferred to random items, after supervised fine-tuning.

-log sigma(beta d), d = how much more the policy prefers the target to the other item than the model does with which the
phase begins. Several negatives are that many pairs (for one term over all of them: s_dpo). Source: arXiv 2305.18290.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ilrec_cli.methods._phase import Phase, sft
from ilrec_cli.settings._base import above, at_least

NEEDS: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Config:
    """beta is the original's; epochs and rate as S-DPO has them, the field's nearest."""

    beta: Annotated[float, "strength of the tie to the reference"] = 0.1
    negatives: Annotated[int, "random items outside the user's training part, for each target"] = 1
    smoothing: Annotated[float, "probability that a preference is the other way round"] = 0.0
    pair_epochs: Annotated[int, "passes over the pairs"] = 3
    pair_learning_rate: Annotated[float, "peak rate on pairs"] = 1e-5

    def __post_init__(self) -> None:
        above(self, 0, "beta", "pair_learning_rate")
        at_least(self, 1, "negatives", "pair_epochs")
        if not 0 <= self.smoothing < 0.5:
            raise ValueError(f"smoothing is {self.smoothing}, expected at least 0 and less than 0.5")


def phases(config: Config) -> list[Phase]:
    of = config.pair_epochs, config.pair_learning_rate
    return [
        sft(),
        Phase("dpo", "_pairs:random_pairs", "loss:make_loss", *of, chooses=True, check="_negatives:check_random"),
    ]


def needs(config: Config) -> tuple[str, ...]:
    """What this configuration uses of NEEDS: nothing."""
    return NEEDS


def weights(config: Config) -> dict[str, float]:
    """Weight of every loss term in the total."""
    return {"dpo": 1.0}
