"""The tasks of a run: which ones by default, and their examples from the artifacts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ilrec_cli.artifacts import Artifact
from ilrec_cli.errors import UserError
from ilrec_cli.histories import Sequences
from ilrec_cli.lm import backbone, candidates, prompts, tasks, templates
from ilrec_cli.lm.candidates import CandidateLayout
from ilrec_cli.lm.examples import Catalogue, Layout
from ilrec_cli.lm.rows import Runs
from ilrec_cli.lm.task_rows import Once, TaskRows
from ilrec_cli.lm.task_tokens import Texts
from ilrec_cli.lm.tasks import Cases
from ilrec_cli.settings import Train
from ilrec_cli.stages import _inputs, _models

TITLE_END = " .!?,;:`"  # LC-Rec strips these signs from titles


def decided(config: Train, data: Artifact, ids: Artifact) -> Train:
    """Settings with targets and tasks chosen; `UserError` for tasks that these data or identifiers do not allow."""
    tiny = backbone.is_tiny(config.backbone)
    asked = bool(config.tasks) or config.chat or config.prompt == "input"
    targets = ("all" if tiny and not asked else "last") if config.targets == "auto" else config.targets
    chosen = config.tasks
    if any(spec.partition(":")[0] == candidates.TASK for spec in chosen):
        if chosen != (candidates.TASK,):
            raise UserError("--tasks candidates stands alone: its prompts list what there is to choose from")
        return replace(config, targets="last")
    if targets == "last" and not (tiny or chosen or config.prompt == "input"):
        chosen = _by_default(data, ids)
        if config.vocab_scope == "ids":  # its softmax has no words
            chosen = tuple(spec for spec in chosen if not _in_words(spec.partition(":")[0]))
    _check(chosen, config, ids)
    return replace(config, targets=targets, tasks=chosen)


def make_rows(
    settings: Train, data: Artifact, items: Catalogue, tokenizer: Any, user_E: np.ndarray, end_E: np.ndarray,
    once: Once | None = None,
) -> tuple[TaskRows, list[str]]:  # fmt: skip
    """(examples of the run's tasks, what was left out); `user` and `end` are the targets that are for training."""
    shares = tasks.parse(settings.tasks)
    texts = texts_of(data)
    cases = [_cases(share.task, data, user_E, end_E) for share in shares]
    return TaskRows.build(
        tokenizer, items, texts, cases, shares, form=prompts.chosen(tokenizer, as_chat=settings.chat),
        max_length=settings.max_length, seed=settings.seed, once=once,
    )  # fmt: skip


def texts_of(data: Artifact) -> Texts:
    """Titles without the signs that end them, and descriptions as they are."""
    columns = data.table("items").select(["title", "description"]).to_pydict()
    said = _said(data)
    return Texts(
        [(title or "").strip().rstrip(TITLE_END) for title in columns["title"]],
        [(text or "").strip() for text in columns["description"]],
        said.preference, said.query,
    )  # fmt: skip


class Said(NamedTuple):
    """What users said: texts one user after another, and how many each of them has. W users."""

    user_W: np.ndarray
    item_W: np.ndarray  # that the queries are for, -1 where there are none
    preference: list[str]
    preferences_W: np.ndarray
    query: list[str]
    queries_W: np.ndarray


def _said(data: Artifact) -> Said:
    """From the table of that name, where these data have one."""
    if "said" not in data.manifest["tables"]:
        nothing = np.zeros(0, dtype=np.int64)
        return Said(nothing, nothing, [], nothing, [], nothing)
    table = data.table("said")
    user, item = (table[name].to_numpy().astype(np.int64) for name in ("user", "item"))
    texts = [table[name].combine_chunks() for name in ("preferences", "queries")]
    (preference, preferences), (query, queries) = (
        (each.flatten().to_pylist(), each.value_lengths().to_numpy().astype(np.int64)) for each in texts
    )
    return Said(user, item, preference, preferences, query, queries)


def layouts(settings: Train, tokenizer: Any) -> list[Layout]:
    """The prompts of the next-item task that a run is trained with; the first is what it is evaluated with."""
    if settings.targets == "all":
        return [Layout.stream(tokenizer)]
    form = prompts.chosen(tokenizer, as_chat=settings.chat)
    if settings.prompt == "input":
        return [Layout.prompt(tokenizer, prompts.input_template(form), prompts.TITLES_SEPARATOR)]
    found = prompts.next_item(form)
    several = settings.tasks != (candidates.TASK,) and "next_item" in tasks.known(tasks.parse(settings.tasks))
    trained = found if several else found[:1]
    return [Layout.prompt(tokenizer, template) for template in trained]


def wording(settings: Train, start: Artifact | None, *, makes_rows: bool) -> dict[str, str]:
    """A digest of the text of all prompts and answers, the chat template's included; nothing where a run has no prompts.

    `UserError` where the run that this one starts from was worded otherwise, and rows are made in today's words.
    """
    form = prompts.PLAIN
    if settings.chat:
        if start is None and backbone.is_tiny(settings.backbone):
            return {}  # has no chat template, and is refused for it
        form = prompts.chat(backbone.tokenizer_of(settings.backbone, None if start is None else start.path / "model"))
    texts = _texts(settings, form)
    now = templates.digest(texts) if texts else None
    kept = now if start is None else _worded(start)
    if kept != now and makes_rows:
        raise UserError(
            f"--from {start and start.name}: its prompts had other words than lm/ and the chat template have now; train it again, "
            "or start from another run"
        )
    return {} if kept is None else {"wording": kept}


def _worded(run: Artifact) -> str | None:
    """The same digest of a finished run; None where it has no prompts."""
    found = run.json("layout.json")
    if candidates.TASK in found:
        return templates.digest([piece for template in found[candidates.TASK]["texts"] for piece in template])
    return found.get("digest")


def record(settings: Train, tokenizer: Any, start: Artifact | None) -> dict[str, Any]:
    """What a run keeps of its prompts: the next-item ones as token ids and text, and a digest of all its tasks' texts.

    Those of the run that it starts from, if it does: whatever the wording is today.
    """
    if start is not None:
        kept = start.json("layout.json")
        return {name: kept[name] for name in ("chat", "digest", "templates", candidates.TASK) if name in kept}
    if settings.targets == "all":
        return {}
    form = prompts.chosen(tokenizer, as_chat=settings.chat)
    if settings.tasks == (candidates.TASK,):
        return {"chat": settings.chat, candidates.TASK: CandidateLayout.of(tokenizer, form).as_dict()}
    first = [form.wrap(template.prompt) for template in templates.every()["next_item"]]
    if settings.prompt == "input":
        first = [prompts.with_input(form)]
    known = layouts(settings, tokenizer)
    return {
        "chat": settings.chat,
        "digest": templates.digest(_texts(settings, form)),
        "templates": [
            {"text": text, **layout.as_dict()} for text, layout in zip(first[: len(known)], known, strict=True)
        ],
    }


def _texts(settings: Train, form: prompts.Format) -> list[str]:
    """Every prompt with its answer, fields in braces."""
    if settings.targets == "all":
        return []
    if settings.tasks == (candidates.TASK,):
        return [piece for template in CandidateLayout.spelled(form) for piece in template]
    if settings.prompt == "input":
        return [prompts.with_input(form) + "{item}"]
    names = tasks.known(tasks.parse(settings.tasks)) or ("next_item",)
    return [form.wrap(template.prompt) + template.answer for name in names for template in templates.every()[name]]


def _by_default(data: Artifact, ids: Artifact) -> tuple[str, ...]:
    """LC-Rec's tasks where items have codes and text; the next-item prompt alone elsewhere."""
    if _models.is_text(ids) or not any(texts_of(data).title_I):
        return ()
    return tasks.DEFAULT + (tasks.OF_USERS if "said" in data.manifest["tables"] else ())


def _check(specs: tuple[str, ...], config: Train, ids: Artifact) -> None:
    names = tasks.known(tasks.parse(specs))
    in_text = [name for name in names if _in_words(name)]
    if in_text and config.vocab_scope == "ids":
        raise UserError(f"--vocab-scope ids: the task {in_text[0]} is answered in words; leave one of them out")
    about = [name for name in names if name in ("text_to_item", "item_to_text", "fusion")]
    if about and _models.is_text(ids):
        raise UserError(
            f"--tasks {about[0]}: the identifiers of '{ids.name}' are titles already; use ids that are codes"
        )


def _in_words(task: str) -> bool:
    """Whether a task's answers are more than identifiers."""
    return any(each.answer != "{item}" for each in templates.every()[task])


def _cases(task: str, data: Artifact, user_E: np.ndarray, end_E: np.ndarray) -> Cases:
    """What a task can ask about in these data."""
    sequences, max_history = _inputs.sequences(data), data.json("card.json")["max_history"]
    if task in ("text_to_item", "item_to_text"):
        return Cases.of_items(task, _inputs.item_order(data))
    if task in tasks.OF_USERS:
        return _of_users(task, data, np.unique(user_E), max_history)
    return _targets(task, sequences, user_E, end_E, max_history)


def _targets(task: str, sequences: Sequences, user_E: np.ndarray, end_E: np.ndarray, max_history: int) -> Cases:
    place = sequences.offsets[user_E] + end_E
    length = np.minimum(end_E, max_history)
    return Cases.of_targets(task, sequences.items[place], Runs(sequences.items, place - length, length))


def _of_users(task: str, data: Artifact, users: np.ndarray, max_history: int) -> Cases:
    """A case for each of the users who said something; what they had before the item, or before their last training item.

    An item that is not in the user's training part is not asked for: its answer would be a held-out one.
    """
    said = _said(data)
    if not len(said.user_W):
        raise UserError(f"--tasks {task}: these data have nothing that users said (LC-Rec's .user.json)")
    sequences, (start_U, stop_U) = _inputs.sequences(data), _inputs.training_part(data)
    first_W = sequences.offsets[said.user_W]
    counts = [said.preferences_W, said.queries_W]
    preference, query = ((np.cumsum(count_W) - count_W, count_W) for count_W in counts)
    if task == "item_search":
        wanted_U = np.full(len(sequences), -1)
        wanted_U[said.user_W] = said.item_W
        owner = np.repeat(np.arange(len(sequences)), sequences.lengths)
        place = np.arange(len(sequences.items)) - sequences.offsets[owner]
        here = (sequences.items == wanted_U[owner]) & (place >= start_U[owner]) & (place < stop_U[owner])
        end_U = np.full(len(sequences), -1)
        np.maximum.at(end_U, owner[here], place[here])
        end_W, item_W = end_U[said.user_W], said.item_W
    else:
        end_W, item_W = np.maximum(stop_U[said.user_W] - 1, 0), np.full(len(said.user_W), -1)
    length_W = np.clip(end_W, 0, max_history)
    cases = Cases(task, item_W, Runs(sequences.items, first_W + end_W - length_W, length_W), preference, query)
    return cases.take(np.flatnonzero((end_W >= 0) & np.isin(said.user_W, users)))
