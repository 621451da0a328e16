"""The space of a sweep: lists of values and ranges, drawn by a seed or suggested by Optuna."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ilrec_cli.errors import UserError

NUMBER = r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?"
RANGE = re.compile(rf"({NUMBER})\.\.({NUMBER})(:log)?")


class Range(NamedTuple):
    """Numbers from low to high; whole ones if both ends are; evenly spread, or over their logarithms."""

    low: float
    high: float
    log: bool
    whole: bool

    def draw(self, rng: np.random.Generator) -> int | float:
        if self.whole and not self.log:
            return int(rng.integers(int(self.low), int(self.high) + 1))
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        value = rng.uniform(low, high)
        drawn = math.exp(value) if self.log else value
        return round(drawn) if self.whole else float(f"{drawn:.4g}")


Axis = Range | list[Any]


def axis(key: str, values: list[Any]) -> Axis:
    """A range where the only value is spelled as one."""
    match = RANGE.fullmatch(str(values[0])) if len(values) == 1 else None
    if match is None:
        return values
    low, high = float(match[1]), float(match[2])
    if low >= high or (match[3] and low <= 0):
        raise UserError(
            f"ilrec sweep: -o {key}={values[0]}: expected LOW..HIGH with LOW below HIGH, and above 0 with :log"
        )
    return Range(low, high, bool(match[3]), all(re.fullmatch(r"-?\d+", end) is not None for end in match.group(1, 2)))


def drawn(axes: Mapping[str, Axis], trials: int, seed: int) -> list[dict[str, Any]]:
    """So many draws; the first ones are the same whatever the number."""
    found = []
    for number in range(trials):
        rng = np.random.default_rng([seed, number])
        found.append({key: values.draw(rng) if isinstance(values, Range) else values[int(rng.integers(len(values)))]
                      for key, values in axes.items()})  # fmt: skip
    return found


class Suggester:
    """Optuna's TPE: told what came of the trials there were, asked for the next one."""

    def __init__(self, axes: Mapping[str, Axis], seed: int, told: int):
        try:
            import optuna
        except ImportError as error:
            raise UserError("--search optuna needs Optuna: pip install 'ilrec[sweep]'") from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.axes = axes
        self.study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed + told))
        kinds = optuna.distributions
        self.kinds = {
            key: kinds.CategoricalDistribution([str(value) for value in values]) if isinstance(values, list)
            else kinds.IntDistribution(int(values.low), int(values.high), log=values.log) if values.whole
            else kinds.FloatDistribution(values.low, values.high, log=values.log)
            for key, values in axes.items()
        }  # fmt: skip

    def tell(self, drawn: Mapping[str, Any], value: float | None) -> None:
        """What came of values; None: nothing."""
        import optuna

        state = optuna.trial.TrialState.COMPLETE if value is not None else optuna.trial.TrialState.FAIL
        made = optuna.trial.create_trial(params=dict(drawn), distributions=self.kinds, value=value, state=state)
        self.study.add_trial(made)

    def ask(self) -> dict[str, Any]:
        """The next values. What comes of them is told, not kept by this trial of Optuna's."""
        import optuna

        trial = self.study.ask(self.kinds)
        self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return dict(trial.params)


def fits(axes: Mapping[str, Axis], drawn: Mapping[str, Any]) -> bool:
    """Whether values that were drawn before are of this space."""
    return drawn.keys() == axes.keys() and all(
        values.low <= drawn[key] <= values.high if isinstance(values, Range) else str(drawn[key]) in map(str, values)
        for key, values in axes.items()
    )


def lists(axes: Mapping[str, Axis]) -> dict[str, list[Any]]:
    """The axes of a grid, which has no ranges."""
    ranges = [key for key, values in axes.items() if isinstance(values, Range)]
    if ranges:
        raise UserError(f"ilrec sweep: {ranges[0]} is a range, which a grid cannot list. Add --search random or optuna")
    return {key: values for key, values in axes.items() if not isinstance(values, Range)}
