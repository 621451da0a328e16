"""How long a run takes: a few of its own updates, timed."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from ilrec_cli.batching import epoch_batches
from ilrec_cli.console import Console
from ilrec_cli.lm import backbone
from ilrec_cli.lm.steps import Updater
from ilrec_cli.stages import _job, _plan
from ilrec_cli.stages._job import Task

UNTIMED = 2  # the first updates make the optimiser's state and warm up


def timed(task: Task, steps: int, console: Console) -> dict[str, Any]:
    """Seconds of an update of `_timing` on this machine and hours for `steps` of them; validation is not counted.

    Batches are the run's own, drawn evenly over its first epoch. Weights are random: time does not depend on them.
    """
    settings: Any = task.settings
    opened = None if backbone.is_tiny(settings.backbone) else _plan.open_shapes(task, "cpu")
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        prepared = _job.prepare(task, Path(folder) / "train", opened)
        job = prepared.phases[0]()
        updater = Updater(job.parallel, job.source, job.loss, job.weights, job.rewards, settings)
        batches = epoch_batches(job.source.lengths(), settings.batch_size, settings.seed, 0)
        wanted = UNTIMED + settings.measured_steps
        for number in console.progress(range(wanted), "timing", total=wanted):
            started = time.perf_counter()
            updater.update(batches[number * len(batches) // wanted], 1e-6, number + 1)
            if job.parallel.device.type == "cuda":
                torch.cuda.synchronize(job.parallel.device)
            seconds.append(time.perf_counter() - started)
    found = seconds[UNTIMED:]
    mean, error = statistics.fmean(found), statistics.stdev(found) / len(found) ** 0.5
    hours, spread = steps * mean / 3600, 2 * steps * error / 3600
    console.say(
        f"\n{mean:.3f} s an update here ({min(found):.3f} to {max(found):.3f}, {len(found)} timed, {job.parallel.device.type}): "
        f"{hours:.2f} ± {spread:.2f} hours for {steps:,} steps, validation not counted"
    )
    return {"device": job.parallel.device.type, "update_seconds": found, "hours": hours, "hours_spread": spread}
