"""A user, a history or a file of them, by original ids -> items with titles and scores."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ilrec_cli import devices
from ilrec_cli.console import Console
from ilrec_cli.errors import UserError, nearest
from ilrec_cli.settings import Recommend
from ilrec_cli.stages import _histories_file, _inputs
from ilrec_cli.stages._histories_file import Row
from ilrec_cli.stages._recommender import Query, Recommender, UnknownIdError

TITLE_WIDTH = 60


def run(config: Recommend) -> dict[str, Any]:
    """Print recommendations, or write them for every row of a file; returns what was answered."""
    console = Console.of(config)
    if config.input is None or config.output is None:
        return _answered(config, console)
    _check_files(config.input, config.output)
    with _inputs.output_file(config.output, overwrite=config.overwrite):
        return _answered(config, console)


def _answered(config: Recommend, console: Console) -> dict[str, Any]:
    recommender = Recommender(config)
    if config.explain and recommender.kind != "run":
        raise UserError(
            f"--explain shows the layers of a language model; '{recommender.model.name}' is a collaborative model"
        )
    try:
        lists = (_lists(config, recommender, "allow") if config.allow else None, _lists(config, recommender, "deny"))
        if config.input is not None:
            return _many(config, recommender, lists, console)
        return _one(config, recommender, lists, console)
    except (MemoryError, RuntimeError) as error:
        if not devices.out_of_memory(error):
            raise
        raise UserError(
            f"memory does not suffice for {config.batch_size} histories at a time (--batch-size) and lists of {config.k}. "
            "Ask for fewer at a time; nothing half-written was kept"
        ) from error
    except UnknownIdError as error:
        known = recommender.numbers if " item '" in str(error) else recommender.users
        raise UserError(f"{error} of {recommender.data.path}.{nearest(error.value, known)}") from error


Lists = tuple[np.ndarray | None, np.ndarray]


def _check_files(source: Path, target: Path) -> None:
    """Before anything is loaded."""
    _histories_file.kind_of(source, "--input")
    _histories_file.kind_of(target, "--output")
    if not source.is_file():
        raise UserError(f"--input {source}: no such file")
    if target.exists() and target.samefile(source):
        raise UserError(f"--output {target} is the input; name another file")


def _lists(config: Recommend, recommender: Recommender, flag: str) -> np.ndarray:
    """Item numbers of --allow or --deny: a value that names a file stands for the ids in it, one a line."""
    values: tuple[str, ...] = getattr(config, flag)
    ids: list[str] = []
    for value in values:
        named = value not in recommender.numbers and (_is_file(value) or _looks_like_a_file(value))
        ids += _in_file(value, f"--{flag} {value}") if named else [value]
    return recommender.items(ids, f"--{flag}: ", config.unknown)


def _is_file(value: str) -> bool:
    return os.path.isfile(value)  # Path.is_file raises where the value is too long for a name


def _looks_like_a_file(value: str) -> bool:
    return "/" in value or Path(value).suffix != ""


def _in_file(value: str, flag: str) -> list[str]:
    """The ids in a file, one a line; a missing file is not left to --unknown skip, since it would forbid nothing."""
    try:
        text = Path(value).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{flag}: no text file with one id a line") from error
    except OSError as error:
        raise UserError(f"{flag}: no item has this id, and no such file can be read ({error.strerror})") from error
    ids = [line.strip() for line in text.split("\n") if line.strip()]
    if not ids:
        raise UserError(f"{flag}: the file holds no id")
    return ids


def _query(config: Recommend, recommender: Recommender, row: Row, lists: Lists) -> Query:
    user = -1
    if row.history is None:
        assert row.user is not None
        user = recommender.user(row.user, row.where)
    elif row.user is not None:  # a user of the file's own need not be one of the data's
        user = recommender.users.get(row.user, -1)
    history = recommender.history(user) if row.history is None else row.history
    allow, deny = lists
    return recommender.query(
        history, config.k, where=row.where, user=user, hide_seen=config.hide_seen, allow=allow, deny=deny,
        unknown=config.unknown,
    )  # fmt: skip


def _one(config: Recommend, recommender: Recommender, lists: Lists, console: Console) -> dict[str, Any]:
    flag = "--history: " if config.user is None else "--user: "
    row = Row(flag, config.user, None if config.user is not None else list(config.history))
    query = _query(config, recommender, row, lists)
    shown = query.history[-recommender.max_history :]
    if not len(shown):
        raise UserError(f"{flag}no item of it is known; there is nothing to go by")
    (found,) = recommender.answer([query])
    if not found:
        raise UserError(
            "no item is left to recommend: the history, --allow and --deny leave none; see also --no-hide-seen"
        )
    names = [recommender.titles[item] or recommender.raw_ids[item] for item in shown[-3:]]
    console.say(f"After {len(shown)} items, the last: {', '.join(names)}")
    if query.skipped:
        console.say(f"{query.skipped} ids of the history are unknown and were passed over")
    rows = [{"rank": rank, **listed._asdict()} for rank, listed in enumerate(found, start=1)]
    console.table(
        ["rank", "item", "title", "score"],
        [[row["rank"], row["item"], row["title"][:TITLE_WIDTH], row["score"]] for row in rows],
    )
    history = [recommender.raw_ids[item] for item in shown]
    result: dict[str, Any] = {"run": recommender.model.name, "history": history, "recommendations": rows}
    if config.explain:
        result["explanation"] = _explained(recommender, history, config.explain_item or found[0].item, console)
    return result


def _explained(recommender: Recommender, history: list[str], item: str, console: Console) -> dict[str, Any]:
    """The steps to an item, as tables and as data."""
    made = recommender.explain(history, item)
    console.say(f"\nHow {made['item']} ({made['title'][:TITLE_WIDTH]}) comes about, token by token")
    layers = [str(layer) for layer in made["layers"]]
    for step in made["steps"]:
        negatives = ""
        if step["negatives"] is not None:
            negatives = f"; {step['negatives']:,} negatives (alpha {made['alpha']:g})"
        console.say(f"\nstep {step['step']}: {step['chosen']}, one of {step['candidates']:,} that go on{negatives}")
        head = ["token", "", "last layer", *(f"layer {layer}" for layer in layers), "goes on", "negative", "penalty"]
        rows = [
            [row["token"], "<-" if row["chosen"] else "", row["final"], *(row["layers"][layer] for layer in layers),
             row["continues"], row["negative"], row["penalty"]] for row in step["tokens"]
        ]  # fmt: skip
        console.table(head, rows)
    return made


def _many(config: Recommend, recommender: Recommender, lists: Lists, console: Console) -> dict[str, Any]:
    assert config.input is not None
    assert config.output is not None
    devices.keep_freed_memory(devices.resolve(config.device))
    chunks: Iterable[list[Row]] = _histories_file.read(config.input)
    rows = _histories_file.count(config.input)
    total = None if rows is None else -(-rows // _histories_file.CHUNK)
    answered = skipped = short = 0
    with _histories_file.writer(config.output) as write:
        for chunk in console.progress(chunks, "recommend", total=total):
            queries = [_query(config, recommender, row, lists) for row in chunk]
            lists_of_chunk = recommender.answer(queries)
            write(chunk, lists_of_chunk)
            answered += len(chunk)
            skipped += sum(query.skipped for query in queries)
            short += sum(len(listed) < config.k for listed in lists_of_chunk)
    console.say(f"{answered:,} rows answered by {recommender.model.name}, up to {config.k} items each")
    if skipped or short:
        console.say(f"{skipped:,} unknown ids passed over; {short:,} rows with fewer than {config.k} items")
    console.say(f"Written: {config.output}")
    return {"run": recommender.model.name, "path": str(config.output), "rows": answered,
            "unknown_ids": skipped, "short_rows": short}  # fmt: skip
