"""The processes that share an evaluation: one, or those that accelerate launched."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import torch

from ilrec_cli import devices
from ilrec_cli.errors import UserError

PATIENCE = timedelta(days=1)  # a process that is done waits for the slowest; torch would give up after minutes


@dataclass(frozen=True)
class Workers:
    """This process among all: its number, how many there are, its device, and a way to wait for the others."""

    index: int
    count: int
    device: torch.device
    wait: Callable[[], None]

    @property
    def is_main(self) -> bool:
        return self.index == 0


def join(device: str) -> Workers:
    """Where `accelerate launch` started several processes, one of them; else the only one."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Workers(0, 1, devices.resolve(device), lambda: None)
    from accelerate import PartialState

    resolved = devices.resolve(device)
    if ":" in device:
        raise UserError(
            f"--device {device}: {world} processes were launched, each takes a GPU of its own; give --device cuda"
        )
    state = PartialState(cpu=resolved.type == "cpu", timeout=PATIENCE)
    if state.num_processes != world:
        raise UserError(
            f"{world} processes were launched, accelerate sees {state.num_processes}; check its configuration"
        )
    return Workers(state.process_index, world, state.device, state.wait_for_everyone)
