"""Settings of plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ilrec_cli.config import Control
from ilrec_cli.settings._base import RUN, above, at_least, at_most
from ilrec_cli.settings.train import Train


@dataclass(frozen=True, kw_only=True)
class Plan(Train):
    """What a training will take, before any download: parameters, steps, tokens, memory; hours with --measure."""

    devices: Annotated[int, "devices that the run would have", Control, RUN] = 1
    device_memory: Annotated[
        float | None, "GiB of each device [those of the GPU here; without one, nothing is judged]", Control, RUN
    ] = None
    measure: Annotated[bool, "time a few steps on this machine, with random weights from the config", Control, RUN] = (
        False
    )
    measured_steps: Annotated[int, "steps that --measure times, after two that it does not", Control, RUN] = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "devices")
        at_least(self, 2, "measured_steps")
        above(self, 0, "device_memory")
        at_most(self, 1_000_000, "device_memory")
        if self.quantize != "none":
            raise ValueError(f"--quantize {self.quantize}: the memory of quantised weights cannot be planned yet")
