"""RosePO: each target preferred to one hard item, with a smoothing of its own for each pair, after fine-tuning.

The rejected item is one of the fine-tuned model's own mistakes, or a similar or a popular one. The loss is that of DPO with
smoothing, -(1 - eps) log sigma(beta d) - eps log sigma(-beta d). What eps is, is ours: the abstract of arXiv 2410.12519
says that an oracle predicts it for each pair and gives no formula; here eps = sigma(phi(rejected) - phi(target)) by the
scores phi of a collaborative model (one minus the Bradley-Terry probability that the target wins), at most `cap`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from ilrec_cli.methods._phase import Phase, sft
from ilrec_cli.settings._base import above, at_least

NEEDS = ("cf_oracle",)


@dataclass(frozen=True, kw_only=True)
class Config:
    """One self-hard negative as the ILRec paper has it; beta, epochs and rate are S-DPO's, which it does not state."""

    beta: Annotated[float, "strength of the tie to the reference"] = 1.0
    rejected: Annotated[
        Literal["self_hard", "semantic", "popularity"],
        "the model's own wrong answers, items of similar text, or items drawn by their training popularity",
    ] = "self_hard"
    beams: Annotated[int, "answers that are searched for self-hard negatives"] = 4
    near: Annotated[int, "the negative is drawn among so many hardest ones: answers, or similar items"] = 3
    smoothing: Annotated[Literal["oracle", "constant"], "eps by a collaborative model, or the same for all"] = "oracle"
    epsilon: Annotated[float, "eps where it is constant; 0: plain DPO"] = 0.1
    cap: Annotated[float, "largest eps of the oracle: from 0.5 on preferences would turn round"] = 0.45
    pair_epochs: Annotated[int, "passes over the pairs"] = 3
    pair_learning_rate: Annotated[float, "peak rate on pairs"] = 1e-5

    def __post_init__(self) -> None:
        above(self, 0, "beta", "pair_learning_rate")
        at_least(self, 2, "beams")
        at_least(self, 1, "near", "pair_epochs")
        for name in ("epsilon", "cap"):
            if not 0 <= getattr(self, name) < 0.5:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 0 and less than 0.5")


def phases(config: Config) -> list[Phase]:
    of = config.pair_epochs, config.pair_learning_rate
    return [sft(), Phase("rosepo", "data:pairs", "loss:make_loss", *of, chooses=True)]


def needs(config: Config) -> tuple[str, ...]:
    """What this configuration uses of NEEDS: a collaborative model where it is the oracle."""
    return NEEDS if config.smoothing == "oracle" else ()


def weights(config: Config) -> dict[str, float]:
    """Weight of every loss term in the total."""
    return {"rosepo": 1.0}
