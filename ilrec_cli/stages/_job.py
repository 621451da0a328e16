"""What a training loop works on: backbone, examples, loss, rewards and validation, put together from artifacts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from ilrec_cli import plugins
from ilrec_cli.artifacts import Artifact
from ilrec_cli.console import Console
from ilrec_cli.errors import UserError
from ilrec_cli.histories import training_windows
from ilrec_cli.lm import backbone, candidates, layer_probe, preference
from ilrec_cli.lm.backbone import Backbone
from ilrec_cli.lm.candidates import CandidateExamples
from ilrec_cli.lm.examples import Batch, Catalogue, Examples, Layout
from ilrec_cli.lm.heads import LayerHeads
from ilrec_cli.lm.loop import Job
from ilrec_cli.lm.model import Rewards, SupervisedLM, final_norm
from ilrec_cli.lm.phases import Material
from ilrec_cli.lm.rank import Ranker
from ilrec_cli.lm.sharding import Parallel
from ilrec_cli.lm.task_rows import Once, TaskRows
from ilrec_cli.methods._phase import Phase
from ilrec_cli.metrics import ranking_metrics
from ilrec_cli.ranking import Rankings
from ilrec_cli.settings import Train
from ilrec_cli.stages import _backbones, _candidate_job, _inputs, _models, _processes, _run_folder, _tasks
from ilrec_cli.trie import ItemTrie

VALIDATION_SEED = 2024  # the validation sample is the same for every run, whatever its seed
VALIDATION_BATCH = 64
CHUNK_SCORES = 8_000_000  # collaborative scores that exist at a time


class Task(NamedTuple):
    """A training run as asked for: settings, method with its options, and the artifacts it stands on."""

    settings: Train
    method: ModuleType
    options: Any
    needs: tuple[str, ...]
    parents: dict[str, Artifact]
    recorded: dict[str, Any]  # what decides the result, apart from the versions of the parents
    kind: str = "run"


class Prepared(NamedTuple):
    """A run that can start: nothing is written yet."""

    backbone: Backbone
    parallel: Parallel
    examples: Examples
    phases: list[Callable[[], Job]]  # called when a phase begins
    rows: TaskRows | CandidateExamples | None  # of --tasks, instead of the examples
    notes: list[str]  # what --tasks left out


def prepare(task: Task, folder: Path, opened: Backbone | None = None) -> Prepared:
    """Everything loaded, the model on its processes; `opened` is a backbone to take instead of the one that is named."""
    settings, data = task.settings, task.parents["data"]
    accelerator = _processes.make_accelerator(settings, folder.parent)
    if "from" in task.parents:
        opened = _backbones.started(settings, task.parents["from"], task.parents["ids"])
    else:
        opened = _backbones.equipped(opened or _backbones.open_backbone(settings, data), settings, task.parents["ids"])
    items = _models.catalogue(task.parents["ids"], opened.tokenizer)
    layout = layout_of(task, opened)
    examples = make_examples(settings, data, items, layout)
    phases = phases_of(task)
    rows, notes = None, list[str]()
    if any(phase.data == "next_item" for phase in phases) or settings.tasks == (candidates.TASK,):
        once = partial(_processes.once_a_machine, accelerator=accelerator)
        rows, notes = make_rows(_backbones.readable(settings, opened), data, items, opened.tokenizer, once)
    choices = rows if isinstance(rows, CandidateExamples) else None
    if choices is None:
        read = examples if rows is None else None
        _backbones.refuse_unreadable(settings, opened, data, items, layout, read)
    max_history = data.json("card.json")["max_history"]
    for phase in phases:
        if phase.check is not None:
            check = plugins.named(task.method, phase.check)
            check(task.options, preference.prompts_for(examples, max_history, choices))
    model = supervised(task, opened, items)
    model.check_phi()
    model.task_names = rows.names if rows else ()
    parallel = Parallel(model, accelerator, shard=settings.shard, dtype=settings.dtype)
    scorer = _models.open_cf(task.parents["cf"], data, accelerator.device) if "cf" in task.parents else None
    rewards = None
    if "cf_scores" in task.needs or "trie_tokens" in task.needs:
        rewards = reward_source(scorer, items.trie.to(accelerator.device))
    if choices is not None:
        rewards = None if rewards is None else _candidate_job.reward_source(scorer, items, accelerator.device)
        plainly = validate = _candidate_job.validation(settings, data, parallel, choices)
    else:
        validate = _validation(settings, data, parallel, items, layout)
        plainly = _validation(settings, data, parallel, items, replace(layout, thought=0))  # before it learns to think

    def job(index: int) -> Job:
        phase = phases[index]
        popularity = _inputs.training_popularity(data)
        place = folder / "phases" / str(index + 1)
        material = Material(
            settings, task.options, examples, popularity, parallel, place, index,
            max_history=max_history, scorer=scorer and scorer.scores,
            vectors=_models.vectors(task.parents["ids"]), choices=choices, console=Console.of(settings),
        )  # fmt: skip
        return Job(
            parallel=parallel,
            source=(examples if rows is None else rows)
            if phase.data == "next_item"
            else plugins.named(task.method, phase.data)(material),
            loss=plugins.named(task.method, phase.loss)(task.options),
            weights=phase.weights or task.method.weights(task.options),
            rewards=rewards,
            validate=plainly if phase.start else validate,
            settings=settings,
            learning_rate=phase.learning_rate or settings.learning_rate or 0.0,
            epochs=phase.epochs or settings.epochs,
            folder=folder,
            identity=_run_folder.identity(task),
            name=phase.name if len(task.method.phases(task.options)) > 1 else None,
            cost=material.cost,
        )

    return Prepared(opened, parallel, examples, [partial(job, index) for index in range(len(phases))], rows, notes)


def phases_of(task: Task) -> list[Phase]:
    """The phases that the run has: one that starts from another run leaves out what comes before."""
    return [phase for phase in task.method.phases(task.options) if not (phase.start and "from" in task.parents)]


def reward_source(scorer: Any | None, trie: ItemTrie) -> Callable[[Batch], Rewards]:
    """Collaborative rewards (eq. 10) of a batch: R is the softmax of the model's scores for the histories it shows.

    Without a scorer: which tokens continue an item, and no rewards. Targets are scored a chunk at a time.
    """

    @torch.no_grad()
    def rewards(batch: Batch) -> Rewards:
        if scorer is None:
            return Rewards(trie.children(batch.node_N)[0], None)
        size = max(1, CHUNK_SCORES // trie.items)
        parts = []
        targets = len(batch.history_MT)
        for start in range(0, max(targets, 1), size):
            # Put in the trie's order while they are float32: half the bytes of the probabilities.
            score_MI = scorer.scores(batch.history_MT[start : start + size]).index_select(1, trie.order)
            prob_MI = score_MI.softmax(1, dtype=torch.float64)
            # Events are in ascending order. All of them at once, as usual, do not have a GPU waited for.
            chosen = slice(None) if targets <= size else (batch.event_N >= start) & (batch.event_N < start + size)
            parts.append(trie.child_mass(batch.node_N[chosen], batch.event_N[chosen] - start, prob_MI, ordered=True))
        width = max(token_NC.shape[1] for token_NC, _ in parts)
        token_NC, value_NC = (
            torch.cat([F.pad(part, (0, width - part.shape[1]), value=fill) for part in column])
            for column, fill in zip(zip(*parts, strict=True), (-1, 0), strict=True)
        )
        return Rewards(token_NC, value_NC.float())

    return rewards


def layout_of(task: Task, opened: Backbone) -> Layout:
    """How histories become tokens: as in the run that this one starts from, if it does."""
    thought = getattr(task.options, "thoughts", 0)
    if thought and task.settings.vocab_scope == "ids":
        raise UserError("thoughts are free tokens, of which --vocab-scope ids trains none; leave one of them out")
    if "from" in task.parents:
        layout = Layout.from_dict(task.parents["from"].json("layout.json"))
    else:
        layout = _tasks.layouts(task.settings, opened.tokenizer)[0]
    return replace(layout, thought=thought)


def supervised(task: Task, opened: Backbone, items: Catalogue) -> SupervisedLM:
    settings, options = task.settings, task.options
    inner = backbone.causal_lm(opened.model)
    depth = inner.config.get_text_config().num_hidden_layers
    layers: tuple[int, ...] = ()
    if "inner_layers" in task.needs:
        layers = plugins.part(task.method, "layers").resolve_layers(options.layers, depth, settings.seed)
    heads = None
    if layers and options.layer_head == "separate":
        heads = LayerHeads(layers, final_norm(inner), options.layer_head_rank, settings.seed)
    model = SupervisedLM(
        opened.model, layers, dropout=settings.dropout, layer_heads=heads,
        detach_head=bool(layers) and options.detach_head,
        scope_V=items.trie.tokens() if settings.vocab_scope == "ids" else None,
    )  # fmt: skip
    model.probed_layers = layer_probe.resolve(settings.probe_layers, depth)
    return model


def make_examples(settings: Train, data: Artifact, items: Catalogue, layout: Layout) -> Examples:
    """Windows of users' training parts, or one prompt per target."""
    sequences = _inputs.sequences(data)
    max_history = data.json("card.json")["max_history"]
    user, end = _training_events(settings, data)
    if settings.targets == "last":
        return Examples.per_target(sequences, user, end, max_history, items, layout)
    start, stop = _inputs.training_part(data)
    stop = np.where(np.isin(np.arange(len(sequences)), user), stop, 0)
    return Examples(sequences, training_windows(sequences, stop, max_history, start), items, layout)


def make_rows(
    settings: Train, data: Artifact, items: Catalogue, tokenizer: Any, once: Once | None = None
) -> tuple[TaskRows | CandidateExamples | None, list[str]]:
    """Examples of --tasks and what was left out; none where the run has the next-item task in one wording."""
    if not settings.tasks:
        return None, []
    if settings.tasks == (candidates.TASK,):
        return _candidate_job.make_examples(settings, data, items, tokenizer, _training_events(settings, data)), []
    return _tasks.make_rows(settings, data, items, tokenizer, *_training_events(settings, data), once)


def _training_events(settings: Train, data: Artifact) -> tuple[np.ndarray, np.ndarray]:
    """(user, end) of the targets of the chosen users."""
    _, user, end = _inputs.events(data, "train")
    chosen = _inputs.draw_users(user, settings.limit_users, settings.seed)
    if not chosen.any():
        raise UserError(
            f"{data.path}: there is no training target (users need at least 4 interactions for one; candidate files a file "
            "for training, or preprocess -o valid_share=0.1)"
        )
    return user[chosen], end[chosen]


def _validation(
    settings: Train, data: Artifact, parallel: Parallel, items: Catalogue, layout: Layout
) -> Callable[[], dict[str, float]]:
    """Hit@10 and NDCG@10 on a fixed sample of validation events, shared out over the processes; Hit@50 of enough beams."""
    sequences, max_history = _inputs.sequences(data), data.json("card.json")["max_history"]
    popularity = _inputs.training_popularity(data)
    _, user, end = _inputs.events(data, "valid")
    chosen = np.flatnonzero(_inputs.draw_users(user, settings.valid_users, VALIDATION_SEED))
    if not len(chosen):
        raise UserError(f"{data.path}: there is no validation target (users need at least 3 interactions for one)")
    mine = chosen[parallel.rank :: parallel.world]

    def rank() -> Rankings:
        ranker = Ranker(
            parallel.model.backbone, items, layout, popularity, beams=settings.valid_beams,
            normalize=settings.vocab_scope,
        )  # fmt: skip
        return ranker.rank_events(sequences, user[mine], end[mine], max_history, batch_size=VALIDATION_BATCH)

    def validate() -> dict[str, float]:
        parallel.model.eval()
        with parallel.autocast():
            values = ranking_metrics(parallel.together(rank).rank_E, [10, 50])
        names = ("hit@10", "ndcg@10", *(("hit@50",) if settings.valid_beams >= 50 else ()))
        sums = torch.tensor([float(values[name].sum()) for name in names], device=parallel.device)
        return dict(zip(names, (parallel.summed(sums) / len(chosen)).tolist(), strict=True))

    return validate
