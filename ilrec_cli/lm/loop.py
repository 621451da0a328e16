"""The training loop, in the order in which things happen. No callbacks.

One log line every few steps with every term; the best weights by validation NDCG@10; a checkpoint from which the run
goes on with the same bits (on a CPU, with as many threads).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ilrec_cli import checkpoint, devices
from ilrec_cli.batching import epoch_batches, share, steps_per_epoch
from ilrec_cli.console import Console
from ilrec_cli.errors import UserError
from ilrec_cli.interrupt import Stopped, stop_requests
from ilrec_cli.json_log import JsonLog
from ilrec_cli.lm.examples import Batch, Examples
from ilrec_cli.lm.model import Loss, Rewards, SupervisedLM
from ilrec_cli.lm.terms import Terms
from ilrec_cli.settings import Train


@dataclass(frozen=True)
class Job:
    """Everything a phase of training works on."""

    model: SupervisedLM
    examples: Examples
    loss: Loss
    weights: dict[str, float]  # of the loss's terms in the total
    rewards: Callable[[Batch], Rewards] | None
    validate: Callable[[], dict[str, float]]
    settings: Train
    learning_rate: float
    folder: Path  # gets checkpoints/ and log.jsonl
    identity: dict[str, Any]  # configuration and parents: a checkpoint of another one is refused


@dataclass
class Progress:
    """Where a run stands; saved with every checkpoint."""

    step: int = 0
    best: float = -1.0
    best_step: int = 0
    evaluations_since_best: int = 0
    seconds: float = 0.0
    threads: int = field(default_factory=torch.get_num_threads)


class Loop:
    """One phase of training. `run` trains and leaves the best weights in the model."""

    def __init__(self, job: Job, accelerator: Any, console: Console):
        self.job, self.settings, self.accelerator, self.console = job, job.settings, accelerator, console
        self.model = accelerator.prepare(job.model)
        self.optimizer = make_optimizer(job.model, job.settings.weight_decay)
        self.last = job.folder / "checkpoints" / "last.safetensors"
        self.progress = self._resume() if job.settings.resume else Progress()
        self.log = JsonLog(job.folder / "log.jsonl", self.progress.step, enabled=accelerator.is_main_process)
        self.per_epoch = steps_per_epoch(len(job.examples), job.settings.batch_size)
        self.total = min(self.per_epoch * job.settings.epochs, job.settings.max_steps or 10**12)
        self.started = time.perf_counter() - self.progress.seconds
        self.window = Terms()  # since the last log line

    def run(self) -> Progress:
        """Train until the steps or the patience end; the model ends with its best weights."""
        progress = self.progress
        with stop_requests() as stop, self._bar() as bar:
            while progress.step < self.total and progress.evaluations_since_best < self.settings.patience:
                self._train_epoch(stop, bar)
                if self._at_epoch_end():
                    self._validate()
                self._save(self.last)
                self._drop_older_bests()
                if self._asked_to_stop(stop):
                    raise Stopped(f"stopped after step {progress.step}; go on with --resume")
        checkpoint.load(self._best(progress.best_step), self.job.model, None)
        return progress

    def _train_epoch(self, stop: list[int], bar: Any) -> None:
        """The rest of the current epoch, or less if asked to stop."""
        progress, settings = self.progress, self.settings
        epoch, place = divmod(progress.step, self.per_epoch)
        for rows in epoch_batches(self.job.examples.lengths(), settings.batch_size, settings.seed, epoch)[place:]:
            rate = self.job.learning_rate * schedule(progress.step, self.total, settings)
            terms, norm = self._update(rows, rate)
            progress.step += 1
            self.window = self.window + terms
            bar.update()
            if self._is_logged(progress.step):
                self._write_terms(rate, norm, bar)
            if progress.step == self.total or self._asked_to_stop(stop):
                return
            if settings.save_every and progress.step % settings.save_every == 0 and not self._at_epoch_end():
                self._save(self.last)

    def _update(self, rows: np.ndarray, rate: float) -> tuple[Terms, torch.Tensor]:
        """One update over a global batch; (its terms on this process, norm of the gradient)."""
        job, settings, world = self.job, self.settings, self.accelerator.num_processes
        logged = self._is_logged(self.progress.step + 1)
        self._seed_step()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        # Every supervised token of the task has a history, so one count divides all terms: that of the global batch.
        tokens = job.examples.supervised(rows)
        parts = share(rows, settings.micro_batch, self.accelerator.process_index, world)
        total = Terms()
        for index, part in enumerate(parts):
            batch = job.examples.batch(part) if len(part) else _unsupervised(job.examples.batch(rows[:1]))
            batch = batch.to(self.accelerator.device)
            rewards = job.rewards(batch) if job.rewards else None
            with nullcontext() if index == len(parts) - 1 else self.accelerator.no_sync(self.model):
                with devices.autocast(self.accelerator.device, settings.dtype):
                    terms = self.model(batch, job.loss, rewards, settings.loss_chunk, logged)
                loss_sum = sum(weight * terms.losses[name][0] for name, weight in job.weights.items() if weight)
                (loss_sum * world / tokens).backward()  # data parallel averages over processes
            total = total + terms.detach()
        if world == 1 and self.progress.step == 0:
            self._check_counts(total, tokens)
        norm = self._clip()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total, norm

    def _check_counts(self, terms: Terms, tokens: int) -> None:
        """The one count that divides all terms must be theirs; a method that counts otherwise would be scaled wrongly."""
        for name, weight in self.job.weights.items():
            if weight and int(terms.losses[name][1]) != tokens:
                raise ValueError(
                    f"loss term {name} counts {int(terms.losses[name][1])} positions, the batch has {tokens}"
                )

    def _clip(self) -> torch.Tensor:
        """Clip the gradient; a norm that is not finite stops the run before the update."""
        try:
            return torch.nn.utils.clip_grad_norm_(
                self.job.model.parameters(), self.settings.clip, error_if_nonfinite=True
            )
        except RuntimeError as error:
            raise UserError(
                f"step {self.progress.step + 1}: the gradient is not finite; the update was not made, and a checkpoint that "
                "was written is intact. Lower --learning-rate, or raise --warmup"
            ) from error

    def _seed_step(self) -> None:
        """Dropout depends on the seed, the step and the process alone: nothing to save, nothing to restore."""
        torch.manual_seed((self.settings.seed * 1_000_003 + self.progress.step) * 4096 + self.accelerator.process_index)

    def _validate(self) -> None:
        progress, job = self.progress, self.job
        scores = job.validate()
        better = scores["ndcg@10"] > progress.best
        progress.evaluations_since_best += 1
        if better:
            progress.best, progress.best_step, progress.evaluations_since_best = scores["ndcg@10"], progress.step, 0
            self._save(self._best(progress.step))
        self._write(best=better, **{f"valid_{name}": value for name, value in scores.items()})
        self.console.say(
            f"step {progress.step:>6}  epoch {progress.step / self.per_epoch:5.2f}  validation NDCG@10 "
            f"{scores['ndcg@10']:.4f}  Hit@10 {scores['hit@10']:.4f}{'  best' if better else ''}"
        )

    def _write_terms(self, rate: float, norm: torch.Tensor, bar: Any) -> None:
        """One log line: the mean of every term and statistic since the last one."""
        means = _summed(self.window, self.accelerator).means()
        # L = L_CPO + lambda L_CPD + mu L_CRR for ILRec (eq. 9, 12), cross-entropy for SFT.
        loss = sum(weight * means[name] for name, weight in self.job.weights.items() if weight)
        self._write(loss=loss, **means, lr=rate, grad_norm=float(norm))
        bar.set_postfix(loss=f"{loss:.3f}")
        shown = "  ".join(f"{name} {value:.4f}" for name, value in {"loss": loss, **means}.items())
        self.console.detail(f"step {self.progress.step:>6}  {shown}")
        self.window = Terms()

    def _write(self, **row: Any) -> None:
        seconds = round(time.perf_counter() - self.started, 2)
        self.log.write(step=self.progress.step, epoch=self.progress.step / self.per_epoch, seconds=seconds, **row)

    def _save(self, path: Path) -> None:
        self.progress.seconds = time.perf_counter() - self.started
        if self.accelerator.is_main_process:
            state = vars(self.progress) | {"identity": self.job.identity}
            checkpoint.save(path, self.job.model, self.optimizer if path is self.last else None, state)
        self.accelerator.wait_for_everyone()

    def _best(self, step: int) -> Path:
        """The best weights so far, under the step they are of: a resumed run cannot mistake another step's for them."""
        return self.last.with_name(f"best-{step}.safetensors")

    def _drop_older_bests(self) -> None:
        """Once `last` names the new best, the ones before it can go."""
        if self.accelerator.is_main_process:
            for path in self.last.parent.glob("best-*.safetensors"):
                if path != self._best(self.progress.best_step):
                    path.unlink()

    def _asked_to_stop(self, received: list[int]) -> bool:
        """Whether any process was: all must leave at the same step."""
        if self.accelerator.num_processes == 1:
            return bool(received)
        flag = torch.tensor(len(received), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum") > 0)

    def _resume(self) -> Progress:
        state = checkpoint.resumable(self.last, self.job.identity, self.console)
        checkpoint.load(self.last, self.job.model, self.optimizer)
        self.console.say(f"Resuming after step {state['step']}")
        return Progress(**state)

    def _is_logged(self, step: int) -> bool:
        return step % self.settings.log_every == 0 or step == self.total

    def _at_epoch_end(self) -> bool:
        return self.progress.step % self.per_epoch == 0 or self.progress.step == self.total

    def _bar(self) -> Any:
        from tqdm import tqdm

        hidden = True if self.console.quiet else None
        return tqdm(total=self.total, initial=self.progress.step, desc="train", disable=hidden, leave=False)


def schedule(step: int, total: int, settings: Train) -> float:
    """Share of the peak rate: rises linearly over the warm-up, then falls to zero by cosine or line, or stays."""
    warmup = int(total * settings.warmup)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    return {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}[settings.schedule]


def make_optimizer(model: torch.nn.Module, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over what is trained; weight decay on matrices only. The rate is set at every step."""
    parameters = list(checkpoint.trainable(model).values())
    matrices, vectors = [p for p in parameters if p.dim() > 1], [p for p in parameters if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=0.0, betas=(0.9, 0.999))


def _unsupervised(batch: Batch) -> Batch:
    """The same tokens without a target: what a process without rows of its own runs, so that all stay in step."""
    return batch._replace(
        **{name: getattr(batch, name)[:0] for name in ("position_N", "target_N", "node_N", "event_N")}
    )


def _summed(terms: Terms, accelerator: Any) -> Terms:
    """Terms over all processes."""
    if accelerator.num_processes == 1:
        return terms
    losses, stats = (
        {name: tuple(accelerator.reduce(part, "sum") for part in pair) for name, pair in pairs.items()}
        for pairs in (terms.losses, terms.stats)
    )
    return Terms(losses, stats)
