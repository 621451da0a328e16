"""SPRec: self-play; after fine-tuning, rounds of fine-tuning and DPO against the model's own recommendations.

A round: the model recommends an item for every target's history; an epoch of supervised fine-tuning; an epoch of DPO, with
the fine-tuned model as reference, in which each target is preferred to what the model had recommended *before* the
fine-tuning. A recommendation that is right is passed over for the next best. Source: arXiv 2412.09243.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ilrec_cli.methods._phase import Phase, sft
from ilrec_cli.settings._base import above, at_least

NEEDS: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Config:
    """Epochs, rates and beta of SPRec.sh; three rounds on all of the data as the ILRec paper has them."""

    iterations: Annotated[int, "rounds of generating, fine-tuning and DPO"] = 3
    beta: Annotated[float, "strength of the tie to the reference"] = 0.1
    beams: Annotated[int, "answers that are searched; the best wrong one is the negative"] = 2
    round_epochs: Annotated[int, "passes over the data in a round's fine-tuning"] = 1
    pair_epochs: Annotated[int, "passes over the pairs in a round's DPO"] = 1
    round_learning_rate: Annotated[float, "peak rate of a round's fine-tuning"] = 2e-5
    pair_learning_rate: Annotated[float, "peak rate on pairs"] = 2e-5

    def __post_init__(self) -> None:
        above(self, 0, "beta", "round_learning_rate", "pair_learning_rate")
        at_least(self, 2, "beams")
        at_least(self, 1, "iterations", "round_epochs", "pair_epochs")


def phases(config: Config) -> list[Phase]:
    """Fine-tuning, then two phases a round; what a round's first phase generates is trained on in its second."""
    rounds = []
    for number in range(1, config.iterations + 1):
        tune, of = (config.round_epochs, config.round_learning_rate), (config.pair_epochs, config.pair_learning_rate)
        rounds += [
            Phase(f"sft {number}", "data:generated", "_sft:make_loss", *tune, weights={"ce": 1.0}, chooses=True),
            Phase(f"dpo {number}", "data:pairs", "loss:make_loss", *of, chooses=True),
        ]
    return [sft(), *rounds]


def needs(config: Config) -> tuple[str, ...]:
    """What this configuration uses of NEEDS: nothing."""
    return NEEDS


def weights(config: Config) -> dict[str, float]:
    """Weight of every loss term in the total."""
    return {"dpo": 1.0}
