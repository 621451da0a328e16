"""S-DPO: each target preferred to several random items at once, after supervised fine-tuning; alias sdpo.

-log sigma(-log sum_j exp(-beta d_j)): cross-entropy of the target in a softmax over itself and its negatives of beta times
what the policy gained on the reference. (TRL's loss_type "sdpo" is another method.) Source: arXiv 2406.09215.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ilrec_cli.methods._phase import Phase, sft
from ilrec_cli.settings._base import above, at_least

NEEDS: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Config:
    """beta, epochs and rate of softmax_dpo.sh; five random negatives as the ILRec paper has them."""

    beta: Annotated[float, "strength of the tie to the reference"] = 1.0
    negatives: Annotated[int, "random items outside the user's training part, for each target"] = 5
    pair_epochs: Annotated[int, "passes over the pairs"] = 3
    pair_learning_rate: Annotated[float, "peak rate on pairs"] = 1e-5

    def __post_init__(self) -> None:
        above(self, 0, "beta", "pair_learning_rate")
        at_least(self, 1, "negatives", "pair_epochs")


def phases(config: Config) -> list[Phase]:
    of = config.pair_epochs, config.pair_learning_rate
    return [
        sft(),
        Phase("s_dpo", "_pairs:random_pairs", "loss:make_loss", *of, chooses=True, check="_negatives:check_random"),
    ]


def needs(config: Config) -> tuple[str, ...]:
    """What this configuration uses of NEEDS: nothing."""
    return NEEDS


def weights(config: Config) -> dict[str, float]:
    """Weight of every loss term in the total."""
    return {"s_dpo": 1.0}
