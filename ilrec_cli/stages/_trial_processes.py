"""Trainings beside each other: a process each, as many as there are devices."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from queue import Queue

from ilrec_cli.errors import UserError
from ilrec_cli.interrupt import Stopped

ENDED = (130, -2, -15)  # by an interrupt: the training saved what it had


class Processes:
    """Gives out devices; `train` waits for a free one."""

    def __init__(self, devices: Sequence[str]):
        self.free: Queue[str] = Queue()
        self.running: set[subprocess.Popen[str]] = set()
        self.stopping = False
        for device in devices:
            self.free.put(device)

    def train(self, flags: Sequence[str]) -> None:
        """Run `ilrec` with these flags on the next free device; its mistakes are raised as such."""
        device = self.free.get()
        command = [sys.executable, "-m", "ilrec_cli", *flags, "--device", device, "--quiet"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.running.add(process)
        try:
            said = process.communicate()[1]
        finally:
            self.running.discard(process)
            self.free.put(device)
        lines = [line.removeprefix("error: ") for line in said.splitlines() if line.startswith("error: ")]
        if process.returncode == 2 and lines:
            raise UserError(lines[-1])
        if process.returncode in ENDED:
            raise Stopped("a trial was stopped")
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{said}")

    def stop(self) -> None:
        """Ask every training to save and end."""
        self.stopping = True
        for process in list(self.running):
            process.terminate()
