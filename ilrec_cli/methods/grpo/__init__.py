"""GRPO (RLVR): the model's own answers rewarded against the target, each relative to its group, after fine-tuning.

In every step each prompt gets a group of answers from the weights of that very step, all of them items; an answer's
advantage is its reward less the group's mean, over the group's standard deviation. The loss raises answers by their
advantage and ties the policy to the model with which the phase begins. Source: arXiv 2402.03300; as MiniOneRec has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from ilrec_cli.methods._phase import Phase, sft
from ilrec_cli.settings._base import above, at_least

NEEDS = ("cf_reward",)
REWARDS = ("exact", "rank", "cf", "prefix")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Eight answers and a reward of 1 or 0 as the ILRec paper has them; the rest, which it does not state, is MiniOneRec's."""

    rollouts: Annotated[
        Literal["beam", "sample"], "answers are the best of a beam search, all different, or drawn at temperature 1"
    ] = "beam"
    group: Annotated[int, "answers to each prompt"] = 8
    exact: Annotated[float, "weight of the reward of 1 for the target's identifier"] = 1.0
    rank: Annotated[float, "weight of the reward that takes from a wrong answer the more the higher it ranks"] = 0.0
    cf: Annotated[float, "weight of a collaborative model's score of the answer"] = 0.0
    prefix: Annotated[float, "weight of the share of the identifier that is right, from its beginning"] = 0.0
    thoughts: Annotated[int, "tokens that are written freely before each answer, at most; 0: none"] = 0
    beta_kl: Annotated[float, "strength of the tie to the model with which the phase begins"] = 1e-3
    average: Annotated[
        Literal["sequence", "token"], "mean of each answer's tokens, then of answers; or of all tokens (DAPO)"
    ] = "sequence"
    policy_epochs: Annotated[int, "passes over the prompts"] = 2
    policy_learning_rate: Annotated[float, "peak rate of these"] = 1e-5

    def __post_init__(self) -> None:
        at_least(self, 2, "group")
        at_least(self, 1, "policy_epochs")
        at_least(self, 0, "beta_kl", "thoughts", *REWARDS)
        above(self, 0, "policy_learning_rate")
        if not any(getattr(self, name) for name in REWARDS):
            raise ValueError(f"no reward has a weight: give one of {', '.join(REWARDS)} more than 0")
        if self.rank and self.rollouts == "sample":
            raise ValueError("rank is a reward of places in a list, which samples do not have: use rollouts=beam")
        if self.thoughts and self.rollouts == "beam":
            raise ValueError("thoughts are drawn, and an answer to each: give rollouts=sample with them")


def phases(config: Config) -> list[Phase]:
    """Fine-tuning and rewards. Samples are of the whole catalogue: only a search can keep to a row's candidates."""
    of, searched = (config.policy_epochs, config.policy_learning_rate), config.rollouts == "beam"
    return [sft(), Phase("grpo", "data:rollouts", "loss:make_loss", *of, chooses=searched, check="data:check_group")]


def needs(config: Config) -> tuple[str, ...]:
    """What this configuration uses of NEEDS: a collaborative model where it rewards."""
    return NEEDS if config.cf else ()


def weights(config: Config) -> dict[str, float]:
    """Weight of every loss term in the total."""
    return {"policy": 1.0, "kl": config.beta_kl}
