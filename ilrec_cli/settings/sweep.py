"""Settings of sweep."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from ilrec_cli.config import Control
from ilrec_cli.settings._base import DATA, RUN, Data, Seeded, at_least


@dataclass(frozen=True, kw_only=True)
class Sweep(Seeded):
    """Search settings of train on validation data: -o NAME=A,B,... lists what to try, -o NAME=LOW..HIGH[:log] a range."""

    data: Data = None
    train: Annotated[Path | None, "YAML file of train settings that all trials share", DATA] = None
    search: Annotated[
        Literal["grid", "random", "optuna"],
        "every combination or some drawn by the seed; values and ranges drawn by the seed; TPE (pip install 'ilrec[sweep]')",
        RUN,
    ] = "grid"
    grid: Annotated[str | None, "values that a method's authors searched, such as paper; -o wins", DATA] = None
    trials: Annotated[int | None, "trials at most [all combinations of a grid]", RUN] = None
    keep: Annotated[
        Literal["best", "all", "none"], "trained models that are kept, besides evaluated ones", Control, RUN
    ] = "best"
    devices: Annotated[
        tuple[str, ...],
        "devices for trials beside each other, a process each, such as cuda:0,cuda:1 [one after another]",
        Control,
        RUN,
    ] = ()
    name: Annotated[str | None, "name of the sweep [the method]", Control, RUN] = None
    overwrite: Annotated[bool, "forget the trials that are there", Control, RUN] = False
    options: Annotated[
        dict[str, Any], "values to try of a setting of train or an option of its method, as key=A,B,... (repeatable)"
    ] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "trials")
        if self.search == "optuna" and len(self.devices) > 1:
            raise ValueError("--search optuna asks for one trial at a time: name one of --devices")
        if self.search != "grid" and self.trials is None:
            raise ValueError(f"--search {self.search} goes on for ever: say how many --trials")
