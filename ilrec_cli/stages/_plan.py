"""What a plan is made of: the sizes of a run's micro-batches, its memory, and settings that take less."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ilrec_cli import plugins
from ilrec_cli.batching import epoch_batches, share, steps_per_epoch
from ilrec_cli.errors import UserError
from ilrec_cli.lm import backbone, budget, shapes
from ilrec_cli.lm.backbone import Backbone
from ilrec_cli.lm.budget import Pass, Shape
from ilrec_cli.lm.candidates import TASK, CandidateExamples
from ilrec_cli.lm.examples import Catalogue, Examples
from ilrec_cli.lm.task_rows import TaskRows
from ilrec_cli.methods._phase import Phase
from ilrec_cli.settings import Plan
from ilrec_cli.stages import _backbones, _job, _models
from ilrec_cli.stages._candidate_sets import Sets
from ilrec_cli.stages._job import Task
from ilrec_cli.trie import ItemTrie

ROWS = 1024  # nodes looked at at a time


class Traffic(NamedTuple):
    """What passes through the model, as batches are made."""

    steps: int  # at most: patience may end a run earlier
    epoch_steps: int
    tokens: int  # of all steps, padding not counted
    padded: int  # of all steps
    supervised: int
    shapes: list[Shape]  # of the micro-batches that may be the worst
    accumulates: bool


class Estimate(NamedTuple):
    """Memory of one device, and the parameters behind it."""

    memory: Counter[str]
    parameters: int
    trained: int

    @property
    def total(self) -> int:
        return self.memory.total()


def open_shapes(task: Task, device: str = "meta") -> Backbone:
    """The backbone without weights; with random ones on a real device. A tiny one is made as `train` makes it."""
    settings = task.settings
    if backbone.is_tiny(settings.backbone):
        return _backbones.open_backbone(settings, task.parents["data"])
    return shapes.skeleton(settings.backbone, _backbones.weight_dtype(settings), device)


Planned = Examples | TaskRows | CandidateExamples


def open_examples(task: Task, opened: Backbone) -> Planned:
    """The training examples, with the tokens of an equipped backbone."""
    settings, data = task.settings, task.parents["data"]
    items = _models.catalogue(task.parents["ids"], opened.tokenizer)
    rows, _ = _job.make_rows(_backbones.readable(settings, opened), data, items, opened.tokenizer)
    if isinstance(rows, CandidateExamples):
        return rows
    layout = _job.layout_of(task, opened)
    examples = _job.make_examples(settings, data, items, layout)
    _backbones.refuse_unreadable(settings, opened, data, items, layout, examples if rows is None else None)
    return examples if rows is None else rows


def targets(examples: Planned) -> int:
    """What an epoch is supervised at: items after a history, or answers."""
    return int(_sizes(examples)[2].sum())


def traffic(examples: Planned, settings: Plan, children: int) -> Traffic:
    """Counted over the batches of the first epoch; those of the others differ in their order alone."""
    length_E, supervised_E, targets_E, history_E = _sizes(examples)
    batches = epoch_batches(examples.lengths(), settings.batch_size, settings.seed, 0)
    epoch_steps = steps_per_epoch(len(examples), settings.batch_size)
    steps = min(epoch_steps * settings.epochs, settings.max_steps or epoch_steps * settings.epochs)
    found: list[Shape] = []
    padded, most = 0, 1
    for rows in batches:
        for rank in range(settings.devices):
            parts = share(rows, settings.micro_batch, rank, settings.devices)
            most = max(most, len(parts))
            for part in (part for part in parts if len(part)):
                shape = Shape(
                    len(part), int(length_E[part].max()), int(supervised_E[part].sum()), int(targets_E[part].sum()),
                    int(history_E[part].max()), children,
                )  # fmt: skip
                padded += shape.rows * shape.width
                found.append(shape)
    widest, densest = (
        max(found, key=lambda shape: shape.rows * shape.width),
        max(found, key=lambda shape: shape.positions),
    )
    share_of_run = steps / epoch_steps
    return Traffic(
        steps, epoch_steps, round(int(length_E.sum()) * share_of_run), round(padded * share_of_run),
        round(int(supervised_E.sum()) * share_of_run), list({widest, densest}), most > 1,
    )  # fmt: skip


def _sizes(examples: Planned) -> tuple[np.ndarray, ...]:
    """(tokens, supervised tokens, targets, longest history) of each example, as the collator makes them."""
    if isinstance(examples, TaskRows):
        book, chosen = examples.book, examples.chosen
        return examples.lengths(), book.sizes(book.response, chosen), np.ones(len(examples), int), chosen.history.length
    if isinstance(examples, CandidateExamples):
        answer_E = examples.prompts.catalogue.length_I[examples.target_E]
        return examples.lengths(), answer_E, np.ones(len(examples), int), (examples.history_ET >= 0).sum(1)
    windows = examples.windows
    return *examples.sizes(), windows.stop - windows.first, windows.stop - 1 - windows.start


def children(task: Task, items: Catalogue) -> int:
    """How many tokens continue an item at most; 0 where the loss is not told. A row's candidates have room for each."""
    if not {"cf_scores", "trie_tokens"} & set(task.needs):
        return 0
    if task.settings.tasks == (TASK,):
        return Sets.of(task.parents["data"]).size
    return most_children(items.trie)


def most_children(trie: ItemTrie) -> int:
    starts = range(0, len(trie), ROWS)
    return max(trie.children(torch.arange(start, min(start + ROWS, len(trie))))[0].shape[1] for start in starts)


def planned(task: Task) -> tuple[Phase, list[str]]:
    """(the phase that a plan is of, names of the run's others); `UserError` where there is none of the kind."""
    phases = _job.phases_of(task)
    found = [phase for phase in phases if phase.data == "next_item"]
    if not found:
        names = ", ".join(phase.name for phase in phases)
        start = "; with --from that is left out" if "from" in task.parents else ""
        raise UserError(
            f"ilrec plan covers fine-tuning on items only{start}, and {names} is all of '{task.settings.method}'"
        )
    return found[0], [phase.name for phase in phases if phase is not found[0]]


def estimate(task: Task, found: Traffic) -> Estimate:
    """Memory of a device at the worst moment, by following one update without data."""
    settings: Any = task.settings
    phase, _ = planned(task)
    opened = _backbones.equipped(open_shapes(task), settings, task.parents["ids"])
    model = _job.supervised(task, opened, _models.catalogue(task.parents["ids"], opened.tokenizer))
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    model = budget.without_data(model, mode)
    how = Pass(
        loss=plugins.named(task.method, phase.loss)(task.options),
        weights=phase.weights or task.method.weights(task.options),
        chunk=settings.loss_chunk,
        dtype=settings.dtype,
        accumulates=found.accumulates,
        values="cf_scores" in task.needs,
    )
    world = settings.devices
    shards = world if settings.shard else 1
    each = [budget.measure(model, shape, how, mode, shards) for shape in found.shapes]
    memory = max((one.shards(world) if shards > 1 else one.copies(world) for one in each), key=Counter.total)
    parameters = list(model.parameters())
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    return Estimate(memory, sum(parameter.numel() for parameter in parameters), trained)


def smaller(settings: Plan, positions: int) -> Iterator[Plan]:
    """Settings that take less and less memory: what costs nothing, what costs time, what changes the result."""
    if positions > 64 and not 0 < (settings.loss_chunk or 0) <= 64:
        settings = replace(settings, loss_chunk=64)
        yield settings
    if not settings.gradient_checkpointing:
        settings = replace(settings, gradient_checkpointing=True)
        yield settings
    rows = settings.micro_batch or -(-settings.batch_size // settings.devices)
    while rows > 1:
        rows = max(1, rows // 4)
        settings = replace(settings, micro_batch=rows)
        yield settings
    if settings.devices > 1 and not settings.shard:
        settings = replace(settings, shard=True)
        yield settings
    if settings.dtype == "float32":
        settings = replace(settings, dtype="bfloat16")
        yield settings
    if settings.tuning == "full" and settings.from_ is None:  # a run goes on as it began
        yield replace(settings, tuning="lora")


def as_flags(settings: Plan, before: Plan) -> str:
    """What was changed, as flags."""
    names = ("loss_chunk", "gradient_checkpointing", "micro_batch", "dtype", "shard", "tuning")
    changed = {name: getattr(settings, name) for name in names if getattr(settings, name) != getattr(before, name)}
    flags = {name: "--" + name.replace("_", "-") for name in changed}
    return " ".join(flags[name] if value is True else f"{flags[name]} {value}" for name, value in changed.items())


def plan_of(task: Task, settings: Plan) -> Task:
    """The same run with other settings."""
    return task._replace(settings=settings)


def described(memory: Counter[str]) -> dict[str, Any]:
    """Bytes by kind, in the order of their coming."""
    return {kind: memory[kind] for kind in budget.KINDS if memory[kind]}
