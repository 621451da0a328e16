"""A run of phases one after another: each starts from the best weights of the one before, with a fresh optimiser.

A phase's data may be made with those weights (self-play, negatives of the model itself). What is drawn for them is kept
in the run's folder, `phases/<n>/`, so that a run that is resumed in the middle of a phase trains on the same data.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ilrec_cli import checkpoint
from ilrec_cli.console import Console
from ilrec_cli.lm.candidates import CandidateExamples
from ilrec_cli.lm.cost import Cost
from ilrec_cli.lm.examples import Examples
from ilrec_cli.lm.loop import Job, Loop, Progress
from ilrec_cli.lm.sharding import Parallel
from ilrec_cli.settings import Train


@dataclass(frozen=True)
class Material:
    """What the data of a phase are made from: `parallel.model` has the weights that the phase starts with."""

    settings: Train
    options: Any  # of the method
    examples: Examples  # of the next-item task: histories, targets, catalogue and layout
    popularity_I: np.ndarray  # of the items, in the training part
    parallel: Parallel
    folder: Path  # phases/<n>/ of the run
    phase: int
    max_history: int = 20
    # Scores_BI of a collaborative model for histories (padded with -1), where the method needs them.
    scorer: Callable[[Tensor], Tensor] | None = None
    vectors: Callable[[], np.ndarray] | None = None  # vector_ID of the items, where the identifiers keep them
    choices: CandidateExamples | None = None  # of candidate ranking, where that is the task
    cost: Cost = field(default_factory=Cost)
    console: Console = field(default_factory=Console)

    def kept(self, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """What `make` gives when the phase begins, from a file when it is resumed.

        Every process calls it; what the first one's `make` returns is what all get.
        """
        from safetensors.numpy import load_file

        path = self.folder / "data.safetensors"
        if not self.parallel.agree(path.is_file()):
            self.parallel.model.eval()
            with self.cost.timed("making_seconds"):
                arrays = make()
            if self.parallel.main:
                checkpoint.write_tensors(path, {name: torch.from_numpy(array) for name, array in arrays.items()}, {})
            self.parallel.wait()
        found: dict[str, np.ndarray] = load_file(path)
        return found

    def earlier(self, phases: int) -> dict[str, np.ndarray]:
        """What was kept so many phases ago."""
        from safetensors.numpy import load_file

        found: dict[str, np.ndarray] = load_file(
            self.folder.with_name(str(self.phase + 1 - phases)) / "data.safetensors"
        )
        return found


def run_phases(
    phases: Sequence[Callable[[], Job]], folder: Path, identity: dict[str, Any], console: Console, *, parallel: Parallel,
    resume: bool,
) -> Progress:  # fmt: skip
    """Train phase after phase; the model ends with the best weights of the last one.

    A phase's job is made when it begins: the weights it starts with are in the model by then. Its first checkpoint,
    before any step, holds them too.
    """
    progress, path = Progress(), None
    if resume:
        path, state = checkpoint.resumable(checkpoint.last(folder), identity, console)
        progress = Progress(**state)
        checkpoint.load(path, parallel.model, None)
        where = f" of phase {progress.phase + 1}" if len(phases) > 1 else ""
        console.say(f"Resuming after step {progress.all_steps}{where}")
    while True:
        start = time.perf_counter()
        job = phases[progress.phase]()
        job.cost.add(seconds=time.perf_counter() - start)
        progress.seconds += time.perf_counter() - start
        if job.name is not None:
            console.say(
                f"Phase {progress.phase + 1} of {len(phases)}: {job.name}, {len(job.source):,} rows, {job.epochs} epochs at a "
                f"rate of {job.learning_rate:g}"
            )
        loop = Loop(job, progress, console)
        if path is not None and progress.step:
            loop.restore(path)
        elif parallel.agree(job.cost.since["making_seconds"]):
            loop.save()  # what was made need not be made again, and its cost is known
        progress = loop.run()
        if progress.phase + 1 == len(phases):
            return progress
        progress, path = _next(progress), None
        state = vars(progress) | {"identity": identity}
        checkpoint.save(checkpoint.last(folder), parallel.model, None, state, write=parallel.main, keep=True)
        parallel.wait()


def _next(progress: Progress) -> Progress:
    return Progress(
        phase=progress.phase + 1, before=progress.all_steps, seconds=progress.seconds, threads=progress.threads,
        costs=progress.costs,
    )  # fmt: skip
