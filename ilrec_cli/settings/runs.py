"""Settings of runs ls, show, diff and rm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ilrec_cli.config import Control, Positional
from ilrec_cli.settings._base import DATA, RUN, Common


@dataclass(frozen=True, kw_only=True)
class ListRuns(Common):
    """List runs and collaborative models: how far they are, their best validation, what they reached, time and size."""

    dataset: Annotated[str | None, "name of the dataset [all of the work folder]", DATA] = None


@dataclass(frozen=True, kw_only=True)
class ShowRun(Common):
    """Everything that decides a run: settings, inputs, code, environment; and what came of it."""

    runs: Annotated[tuple[str, ...], "one run or collaborative model: NAME, runs/NAME, cf/NAME", Positional, DATA] = ()
    dataset: Annotated[str, "name of the dataset", DATA]

    def __post_init__(self) -> None:
        if len(self.runs) != 1:
            raise ValueError(f"name one run, got {len(self.runs)}. What there is: ilrec runs ls")


@dataclass(frozen=True, kw_only=True)
class DiffRuns(Common):
    """By what two runs differ: data, settings, code, environment; and whether their metrics do, paired by user."""

    runs: Annotated[
        tuple[str, ...], "two runs or collaborative models, the base first: NAME, runs/NAME, cf/NAME", Positional, DATA
    ] = ()
    dataset: Annotated[str, "name of the dataset", DATA]

    def __post_init__(self) -> None:
        if len(self.runs) != 2:
            raise ValueError(f"name two runs, got {len(self.runs)}. What there is: ilrec runs ls")


@dataclass(frozen=True, kw_only=True)
class RemoveRuns(Common):
    """Remove runs and collaborative models with their evaluations, unless something was made from them."""

    runs: Annotated[tuple[str, ...], "runs and collaborative models: NAME, runs/NAME, cf/NAME", Positional, DATA] = ()
    dataset: Annotated[str, "name of the dataset", DATA]
    yes: Annotated[bool, "remove them; without it the command says what it would remove", Control, RUN] = False

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("name what to remove. What there is: ilrec runs ls")
