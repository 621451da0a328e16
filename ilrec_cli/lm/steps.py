"""One update over a global batch: micro-batches, processes, clipping, and the refusal of what is not finite."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch

from ilrec_cli import checkpoint
from ilrec_cli.batching import share
from ilrec_cli.errors import UserError
from ilrec_cli.lm.examples import Batch
from ilrec_cli.lm.model import Loss, Rewards
from ilrec_cli.lm.responses import Responses
from ilrec_cli.lm.sharding import Parallel
from ilrec_cli.lm.terms import REWARDED, Terms
from ilrec_cli.settings import Train


class Source(Protocol):
    """The data of a phase: rows that become batches."""

    def __len__(self) -> int:
        """Rows of an epoch: as many in each."""

    def at(self, epoch: int) -> Source:
        """The rows of an epoch, by its number alone: itself, unless something is drawn anew."""

    def lengths(self) -> np.ndarray:
        """About how many tokens each row has: like lengths are batched together."""

    def supervised(self, rows: np.ndarray) -> int:
        """What divides the loss of a batch: its supervised tokens, or pairs; the count of every term not in REWARDED."""

    def rewarded(self, rows: np.ndarray) -> int:
        """How many of its tokens have collaborative rewards: what divides the terms in REWARDED; else never asked."""

    def batch(self, rows: np.ndarray) -> Batch | Responses:
        """What one forward pass sees."""


class Updater:
    """Makes updates with AdamW; keeps its state and whether all updates so far were finite."""

    def __init__(
        self, parallel: Parallel, source: Source, loss: Loss, weights: dict[str, float],
        rewards: Callable[[Batch], Rewards] | None, settings: Train,
    ):  # fmt: skip
        self.parallel, self.source, self.loss, self.weights = parallel, source, loss, weights
        self.rewards, self.settings = rewards, settings
        self.fed = np.zeros(2, dtype=np.int64)  # prompt and response tokens of this process
        self.optimizer = make_optimizer(parallel.model, settings.weight_decay)
        self.parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        # The fused AdamW skips its update, on the device, where `found_inf` is set; it stays set once it was.
        self.broken = torch.zeros((), device=parallel.device)
        self.broken_step = torch.zeros((), dtype=torch.long, device=parallel.device)
        self.optimizer.found_inf = self.broken  # type: ignore[attr-defined]

    def update(self, rows: np.ndarray, rate: float, step: int, *, logged: bool = False) -> tuple[Terms, torch.Tensor]:
        """(terms on this process, norm of the gradient) of update number `step`, counted from 1.

        `logged`: a log line follows, so the statistics of layers are taken too.
        """
        parallel, settings = self.parallel, self.settings
        # Dropout depends on the seed, the step and the process alone: nothing to save, nothing to restore.
        torch.manual_seed((settings.seed * 1_000_003 + step - 1) * 4096 + parallel.rank)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        parallel.module.train()
        # What divides a term is its count over the global batch: any split of the batch gives the same update.
        counts = self._counts(rows)
        parts = share(rows, settings.micro_batch, parallel.rank, parallel.world)
        total = Terms()
        for index, part in enumerate(parts):
            batch = self.source.batch(part) if len(part) else _unsupervised(self.source.batch(rows[:1]))
            self.fed += batch.fed() if len(part) else (0, 0)
            total = total + self._backward(batch, counts, last=index == len(parts) - 1, logged=logged)
        if parallel.world == 1 and step == 1:
            self._check_counts(total, counts)
        # What has no weight may be infinite; times zero it would be no number.
        norm = self._clip(sum(weight * total.losses[name][0] for name, weight in self.weights.items() if weight), step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total, norm

    def _counts(self, rows: np.ndarray) -> dict[str, int]:
        """What divides each weighted term."""
        weighted = {name: name in REWARDED for name, weight in self.weights.items() if weight}
        supervised = self.source.supervised(rows)
        rewarded = self.source.rewarded(rows) if any(weighted.values()) else 0
        return {name: rewarded if apart else supervised for name, apart in weighted.items()}

    def _backward(self, batch: Batch | Responses, counts: dict[str, int], *, last: bool, logged: bool) -> Terms:
        """Add the gradient of a micro-batch."""
        parallel = self.parallel
        batch = batch.to(parallel.device)
        rewards = self.rewards(batch) if self.rewards and isinstance(batch, Batch) else None
        with parallel.accumulating(last=last):
            with parallel.autocast():
                terms = parallel.module(batch, self.loss, rewards, self.settings.loss_chunk, logged)
            sums: dict[int, Any] = {}  # by what divides them: one where every position has every term
            for name, count in counts.items():
                sums[count] = sums.get(count, 0) + self.weights[name] * terms.losses[name][0]
            # Processes' gradients are averaged. A term without any position is a sum of nothing.
            sum(loss_sum * parallel.world / max(count, 1) for count, loss_sum in sums.items()).backward()
        return terms.detach()

    def _clip(self, loss: Any, step: int) -> torch.Tensor:
        """Clip the gradient; note where it or the loss is not finite. A CPU looks at once, a GPU is asked in `check`."""
        norm: Any = torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.clip)
        norm = norm.full_tensor() if self.parallel.sharded else norm
        bad = self.parallel.summed(~(norm.isfinite() & loss.isfinite()) * 1)
        first = (bad > 0) & (self.broken == 0)
        self.broken_step += first * step
        self.broken += first
        if self.parallel.device.type == "cpu":
            self.check()
        return norm

    def check(self) -> None:
        """`UserError` if a gradient was not finite; no update was made since. Waits for the device."""
        if self.broken:
            raise UserError(
                f"step {int(self.broken_step)}: the loss or its gradient is not finite; the update was not made, and a checkpoint that "
                "was written is intact. Lower --learning-rate or the weights of loss terms (-o), or raise --warmup"
            )

    def _check_counts(self, terms: Terms, counts: dict[str, int]) -> None:
        """The count that divides a term must be its own; a method that counts otherwise would be scaled wrongly."""
        for name, count in counts.items():
            if int(terms.losses[name][1]) != count:
                raise ValueError(
                    f"loss term {name} counts {int(terms.losses[name][1])} positions, the batch has {count}"
                )


def summed(terms: Terms, parallel: Parallel) -> Terms:
    """Terms over all processes, which may have different names of statistics (a task without rows on one of them)."""
    if parallel.world == 1:
        return terms
    parts = []
    for pairs in (terms.losses, terms.stats):
        names = sorted({name for found in parallel.gather(list(pairs)) for name in found})
        none = torch.zeros((), dtype=torch.float64, device=parallel.device)
        rows = [torch.stack([part.double() for part in pairs.get(name, (none, none))]) for name in names]
        total = parallel.summed(torch.stack(rows)) if rows else ()
        parts.append({name: (pair[0], pair[1]) for name, pair in zip(names, total, strict=True)})
    return Terms(*parts)


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
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=0.0, betas=(0.9, 0.999), fused=True)


def _unsupervised(batch: Batch | Responses) -> Batch | Responses:
    """The same tokens without a target: what a process without rows of its own runs, so that all stay in step."""
    if isinstance(batch, Responses):
        return batch.without_responses()
    return batch._replace(
        **{name: getattr(batch, name)[:0] for name in ("position_N", "target_N", "node_N", "event_N")},
        task_N=None if batch.task_N is None else batch.task_N[:0],
    )
