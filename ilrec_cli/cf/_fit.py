"""Training of a collaborative model: early stopping on validation NDCG@10, and a checkpoint from which it goes on.

Batches depend on the seed and the epoch, what a step draws on the seed and the step: a run that was killed anywhere ends
with the same bits (on a CPU, with as many threads).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ilrec_cli import checkpoint, devices
from ilrec_cli.batching import epoch_batches, steps_per_epoch
from ilrec_cli.cf._common import Facts, make_batch
from ilrec_cli.cf._rank import Events, rank_events
from ilrec_cli.console import Console
from ilrec_cli.errors import UserError
from ilrec_cli.histories import Sequences, Windows
from ilrec_cli.interrupt import Stopped, stop_requests
from ilrec_cli.json_log import JsonLog
from ilrec_cli.metrics import ranking_metrics
from ilrec_cli.ranking import UnorderedError

Note = Callable[[dict[str, Any]], None]


class DivergedError(UserError):
    """Gradients or scores are not finite: these settings lead nowhere."""


class Material(NamedTuple):
    """What a model is trained and validated on."""

    sequences: Sequences
    windows: Windows
    valid: Events
    facts: Facts


class Saving(NamedTuple):
    """Where a run keeps checkpoints/ and log.jsonl, what it is (another one's checkpoint is refused), whether it goes on."""

    folder: Path
    identity: dict[str, Any]
    resume: bool = False


@dataclass
class Progress:
    """Where a run stands; saved with every checkpoint."""

    step: int = 0
    best: float = -1.0
    best_epoch: int = 0
    # Over this epoch so far: each batch's loss by the targets in its windows. BERT4Rec and BPR average over what they
    # draw from those, so for them the sum of parts is no mean over the draws: a figure to watch, not to compare models by.
    loss_sum: float = 0.0
    targets: int = 0
    seconds: float = 0.0
    threads: int = field(default_factory=torch.get_num_threads)


def fit(
    model: Any, material: Material, settings: Any, *, device: torch.device, log: Note, saving: Saving | None = None,
    console: Console | None = None,
) -> Progress:  # fmt: skip
    """Train in place; the model ends with the weights of its best epoch. Every epoch's figures go to `log`."""
    with tempfile.TemporaryDirectory() if saving is None else nullcontext("") as scratch:
        run = Fit(
            model, material, settings, device, saving or Saving(Path(scratch), {}), console or Console(quiet=True)
        )
        return run.run(log)


class Fit:
    """One training. `run` goes on from where its checkpoint stands."""

    def __init__(
        self, model: Any, material: Material, settings: Any, device: torch.device, saving: Saving, console: Console
    ):
        self.model, self.material, self.settings, self.device, self.console = model, material, settings, device, console
        self.optimizer = make_optimizer(model, settings)
        self.last = saving.folder / "checkpoints" / "last.safetensors"
        self.identity = saving.identity
        self.progress = self._resumed() if saving.resume else Progress()
        self.log = JsonLog(saving.folder / "log.jsonl", self.progress.step, enabled=True)
        self.per_epoch = steps_per_epoch(len(material.windows), settings.batch_size)
        self.total = min(self.per_epoch * settings.epochs, settings.max_steps or 10**12)
        self.started = time.perf_counter() - self.progress.seconds

    def run(self, note: Note) -> Progress:
        """Train until the epochs or the patience end; the model ends with its best weights."""
        progress = self.progress
        with stop_requests() as stop:
            while progress.step < self.total and self._epoch() - progress.best_epoch < self.settings.patience:
                self._train_epoch(stop)
                if self._at_epoch_end():
                    note(self._validate())
                self._save(self.last)
                self._drop_older_bests()
                if stop:
                    raise Stopped(f"stopped after step {progress.step}; go on with --resume")
        checkpoint.load(self._best(progress.best_epoch), self.model, None)
        self.model.eval()
        return progress

    def _train_epoch(self, stop: list[int]) -> None:
        """The rest of the current epoch, or less if asked to stop."""
        progress, windows = self.progress, self.material.windows
        epoch, place = divmod(progress.step, self.per_epoch)
        if place == 0:
            progress.loss_sum, progress.targets = 0.0, 0
        batches = epoch_batches(windows.lengths, self.settings.batch_size, self.settings.seed, epoch + 1)[place:]
        self.model.train()
        for rows in self.console.progress(batches, f"epoch {epoch + 1}"):
            part = windows.take(rows)
            targets = int((part.stop - part.first).sum())
            progress.loss_sum += self._update(part) * targets
            progress.targets += targets
            progress.step += 1
            if progress.step == self.total or stop:
                return

    def _update(self, windows: Windows) -> float:
        """One update; its loss."""
        # Dropout and drawn negatives depend on the seed and the step alone: nothing to save, nothing to restore.
        torch.manual_seed(self.settings.seed * 1_000_003 + self.progress.step)
        batch = make_batch(self.material.sequences, windows, self.device)
        with devices.autocast(self.device, self.settings.dtype):
            loss = self.model.loss(batch)
        loss.backward()
        try:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip, error_if_nonfinite=True)
        except RuntimeError as error:
            raise DivergedError(
                f"step {self.progress.step + 1}: the gradient is not finite. Lower --learning-rate"
            ) from error
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.detach())

    def _validate(self) -> dict[str, Any]:
        """Rank the validation events; keep weights that are better than all before. The epoch's figures."""
        progress, material, epoch = self.progress, self.material, self._epoch()
        started = time.perf_counter()
        try:
            rankings = rank_events(self.model, material.sequences, material.valid, material.facts, self.device)
        except UnorderedError as error:
            raise DivergedError(f"epoch {epoch}: the model's scores are not finite. Lower --learning-rate") from error
        metrics = ranking_metrics(rankings.rank_E, [10])
        valid_seconds = time.perf_counter() - started
        score = float(metrics["ndcg@10"].mean())
        better = score > progress.best
        if better:
            progress.best, progress.best_epoch = score, epoch
            self._save(self._best(epoch))
        row = {"epoch": epoch, "step": progress.step, "loss": progress.loss_sum / progress.targets,
               "valid_ndcg@10": score, "valid_hit@10": float(metrics["hit@10"].mean()), "best": better,
               "valid_seconds": round(valid_seconds, 3), "seconds": round(time.perf_counter() - self.started, 3)}  # fmt: skip
        self.log.write(**row)
        return row

    def _save(self, path: Path) -> None:
        self.progress.seconds = time.perf_counter() - self.started
        state = vars(self.progress) | {"identity": self.identity}
        checkpoint.save(path, self.model, self.optimizer if path is self.last else None, state)

    def _resumed(self) -> Progress:
        path, state = checkpoint.resumable(self.last, self.identity, self.console)
        checkpoint.load(path, self.model, self.optimizer)
        if state["best_epoch"]:
            checkpoint.read_state(self._best(state["best_epoch"]))  # what cannot be read is said now, not at the end
        self.console.say(f"Resuming after step {state['step']}")
        return Progress(**state)

    def _best(self, epoch: int) -> Path:
        """The best weights so far, under the epoch they are of: a resumed run cannot take another epoch's for them."""
        return self.last.with_name(f"best-{epoch}.safetensors")

    def _drop_older_bests(self) -> None:
        """Once `last` names the new best, the ones before it can go."""
        for path in self.last.parent.glob("best-*.safetensors"):
            if path != self._best(self.progress.best_epoch):
                path.unlink()

    def _epoch(self) -> int:
        """Epochs that are finished; one that `max_steps` cuts short is."""
        return self.progress.step // self.per_epoch + (self.progress.step % self.per_epoch > 0 and self._at_epoch_end())

    def _at_epoch_end(self) -> bool:
        return self.progress.step % self.per_epoch == 0 or self.progress.step == self.total


def make_optimizer(model: torch.nn.Module, settings: Any) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices only."""
    matrices, vectors = ([p for p in model.parameters() if (p.dim() > 1) == wide] for wide in (True, False))
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=settings.learning_rate, fused=True)
