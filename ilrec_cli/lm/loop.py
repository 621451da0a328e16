"""The training loop of a phase, in the order in which things happen. No callbacks.

One log line every few steps with every term; the best weights by validation NDCG@10; a checkpoint from which the run
goes on with the same bits (on a CPU, with as many threads).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ilrec_cli import checkpoint
from ilrec_cli.batching import epoch_batches, steps_per_epoch
from ilrec_cli.console import Console
from ilrec_cli.interrupt import Stopped, stop_requests
from ilrec_cli.json_log import JsonLog
from ilrec_cli.lm.cost import COUNTS, Cost
from ilrec_cli.lm.examples import Batch
from ilrec_cli.lm.model import Loss, Rewards
from ilrec_cli.lm.sharding import Parallel
from ilrec_cli.lm.steps import Source, Updater, schedule, summed
from ilrec_cli.lm.terms import Terms
from ilrec_cli.settings import Train


@dataclass(frozen=True)
class Job:
    """Everything a phase of training works on."""

    parallel: Parallel  # the model, on all processes
    source: Source
    loss: Loss
    weights: dict[str, float]  # of the loss's terms in the total
    rewards: Callable[[Batch], Rewards] | None
    validate: Callable[[], dict[str, float]]
    settings: Train
    learning_rate: float
    epochs: int
    folder: Path  # gets checkpoints/ and log.jsonl
    identity: dict[str, Any]  # configuration and parents: a checkpoint of another one is refused
    name: str | None = None  # of the phase, where there are several
    cost: Cost = field(default_factory=Cost)


@dataclass
class Progress:
    """Where a run stands; saved with every checkpoint."""

    phase: int = 0
    before: int = 0  # steps of the phases before
    step: int = 0  # of this phase
    best: float = -1.0
    best_step: int = 0
    evaluations_since_best: int = 0
    seconds: float = 0.0
    threads: int = field(default_factory=torch.get_num_threads)
    costs: list[dict[str, Any]] = field(default_factory=list)  # of the phases so far

    @property
    def all_steps(self) -> int:
        return self.before + self.step


class Loop:
    """One phase of training. `run` trains and leaves the best weights in the model."""

    def __init__(self, job: Job, progress: Progress, console: Console):
        self.job, self.settings, self.parallel, self.console = job, job.settings, job.parallel, console
        self.progress = progress
        self.updater = Updater(job.parallel, job.source, job.loss, job.weights, job.rewards, job.settings)
        self.last = checkpoint.last(job.folder)
        self.log = JsonLog(job.folder / "log.jsonl", progress.all_steps, enabled=self.parallel.main)
        self.per_epoch = steps_per_epoch(len(job.source), job.settings.batch_size)
        self.total = min(self.per_epoch * job.epochs, job.settings.max_steps or 10**12)
        self.started = time.perf_counter() - progress.seconds
        self.accounted = time.perf_counter()
        self.window = Terms()  # since the last log line

    def restore(self, path: Path) -> None:
        """Weights and the optimiser's state of a checkpoint of this phase.

        Where the file of the best weights is lost, those of the checkpoint take their place: found now, not at the end.
        """
        checkpoint.load(path, self.job.parallel.model, self.updater.optimizer)
        best = self._best(self.progress.best_step)
        if self.progress.best_step and self.parallel.agree(self.parallel.main and not checkpoint.is_readable(best)):
            self.console.warn(
                f"{best} is missing or damaged; the best weights are now those of step {self.progress.step}"
            )
            self.progress.best = -1.0
            self._validate()

    def save(self) -> None:
        """A checkpoint from which the run goes on here."""
        self._save(self.last)

    def run(self) -> Progress:
        """Train until the steps or the patience end; the model ends with its best weights."""
        progress = self.progress
        with stop_requests() as stop, self._bar() as bar:
            while progress.step < self.total and progress.evaluations_since_best < self.settings.patience:
                self._train_epoch(stop, bar)
                self.updater.check()
                if self._at_epoch_end():
                    self._validate()
                self.save()
                self._drop_older_bests()
                if self.parallel.agree(stop):
                    raise Stopped(f"stopped after step {progress.all_steps}; go on with --resume")
        checkpoint.load(self._best(progress.best_step), self.parallel.model, None)
        return progress

    def _train_epoch(self, stop: list[int], bar: Any) -> None:
        """The rest of the current epoch, or less if asked to stop."""
        progress, settings = self.progress, self.settings
        epoch, place = divmod(progress.step, self.per_epoch)
        epoch += 1000 * progress.phase  # phases see their rows in orders of their own
        self.updater.source = source = self.job.source.at(epoch)
        for rows in epoch_batches(source.lengths(), settings.batch_size, settings.seed, epoch)[place:]:
            rate = self.job.learning_rate * schedule(progress.step, self.total, settings)
            logged = self._is_logged(progress.step + 1)
            terms, norm = self.updater.update(rows, rate, progress.all_steps + 1, logged=logged)
            progress.step += 1
            self.window = self.window + terms
            bar.update()
            if logged:
                self._write_terms(rate, norm, bar)
            if progress.step == self.total or self.parallel.agree(stop):
                return
            if settings.save_every and progress.step % settings.save_every == 0 and not self._at_epoch_end():
                self.updater.check()
                self.save()

    def _validate(self) -> None:
        progress = self.progress
        with self.job.cost.timed("validation_seconds"):
            scores = self.job.validate()
        better = scores["ndcg@10"] > progress.best
        progress.evaluations_since_best += 1
        if better:
            progress.best, progress.best_step, progress.evaluations_since_best = scores["ndcg@10"], progress.step, 0
            self._save(self._best(progress.step))
        self._account()
        counts = {name: progress.costs[progress.phase][name] for name in COUNTS}
        self._write(best=better, **{f"valid_{name}": value for name, value in scores.items()}, **counts)
        self.console.say(
            f"step {progress.all_steps:>6}  epoch {progress.step / self.per_epoch:5.2f}  validation NDCG@10 "
            f"{scores['ndcg@10']:.4f}  Hit@10 {scores['hit@10']:.4f}{'  best' if better else ''}"
        )

    def _write_terms(self, rate: float, norm: torch.Tensor, bar: Any) -> None:
        """One log line: the mean of every term and statistic since the last one."""
        self.updater.check()
        means = summed(self.window, self.parallel).means()
        # L = L_CPO + lambda L_CPD + mu L_CRR for ILRec (eq. 9, 12), cross-entropy for SFT.
        loss = sum(weight * means.get(name, 0.0) for name, weight in self.job.weights.items() if weight)
        self._write(loss=loss, **means, lr=rate, grad_norm=float(norm))
        bar.set_postfix(loss=f"{loss:.3f}")
        shown = "  ".join(f"{name} {value:.4f}" for name, value in {"loss": loss, **means}.items())
        self.console.detail(f"step {self.progress.all_steps:>6}  {shown}")
        self.window = Terms()

    def _write(self, **row: Any) -> None:
        """A line of the log, and the same to the trackers that were asked for."""
        progress, phase = self.progress, {} if self.job.name is None else {"phase": self.job.name}
        seconds = round(time.perf_counter() - self.started, 2)
        self.log.write(**phase, step=progress.all_steps, epoch=progress.step / self.per_epoch, seconds=seconds, **row)
        # MLflow takes no @ in a name.
        reported = {name.replace("@", "_at_"): value for name, value in row.items()}
        self.parallel.accelerator.log(reported, step=progress.all_steps)

    def _save(self, path: Path) -> None:
        self._account()
        self.progress.seconds = time.perf_counter() - self.started
        last = path is self.last
        state = vars(self.progress) | {"identity": self.job.identity}
        optimizer = self.updater.optimizer if last else None
        checkpoint.save(path, self.parallel.model, optimizer, state, write=self.parallel.main, keep=last)
        self.parallel.wait()

    def _account(self) -> None:
        """Bring the phase's row of costs up to date."""
        progress, cost, now = self.progress, self.job.cost, time.perf_counter()
        if len(progress.costs) == progress.phase:
            progress.costs.append({"phase": self.job.name})
        prompt, response = self.updater.fed.tolist()
        cost.add(seconds=now - self.accounted, prompt_tokens=prompt, response_tokens=response)
        self.accounted, self.updater.fed[:] = now, 0
        row = progress.costs[progress.phase]
        row.update(epochs=progress.step / self.per_epoch, steps=progress.step)
        cost.settle(row, self.parallel.gather)

    def _best(self, step: int) -> Path:
        """The best weights so far, under the step they are of: a resumed run cannot mistake another step's for them."""
        return self.last.with_name(f"best-{self.progress.before + step}.safetensors")

    def _drop_older_bests(self) -> None:
        """Once both kept checkpoints name newer ones, the bests before can go."""
        bests = list(self.last.parent.glob("best-*.safetensors")) if self.parallel.main else []
        if len(bests) > 1:
            kept = [path for path in (self.last, checkpoint.previous(self.last)) if path.exists()]
            states = [checkpoint.read_state(path) for path in kept]
            named = {f"best-{state['before'] + state['best_step']}.safetensors" for state in states}
            for path in bests:
                if path.name not in named:
                    path.unlink()

    def _is_logged(self, step: int) -> bool:
        return step % self.settings.log_every == 0 or step == self.total

    def _at_epoch_end(self) -> bool:
        return self.progress.step % self.per_epoch == 0 or self.progress.step == self.total

    def _bar(self) -> Any:
        from tqdm import tqdm

        hidden = True if self.console.quiet else None
        what = self.job.name or "train"
        return tqdm(total=self.total, initial=self.progress.step, desc=what, disable=hidden, leave=False)
