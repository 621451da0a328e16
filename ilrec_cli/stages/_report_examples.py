"""Hits and misses of a model with titles, and for one user how the tokens of a path looked layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ilrec_cli import artifacts, plugins
from ilrec_cli.artifacts import Artifact
from ilrec_cli.lm import backbone
from ilrec_cli.settings import OpenModel, Report
from ilrec_cli.stages import _inputs, _protocol
from ilrec_cli.stages._report_rows import Row
from ilrec_cli.stages._table import Column, Table

EACH = 3  # hits, and as many misses
LISTED, HISTORY = 5, 6  # items shown of a list, and of a history
MISS = 10  # a target that is not among so many is missed
LARGEST = 1 << 30  # bytes of a model that is opened unasked


class Listed(NamedTuple):
    rank: int
    title: str
    is_target: bool


class Example(NamedTuple):
    """A held-out event: what the user had, what came next, what the model listed."""

    kind: str  # hit, miss
    event: int
    user: str
    history: list[str]
    earlier: int  # items before those shown
    target: str
    ranks: list[tuple[str, str]]  # the target's place in every model's list
    listed: list[Listed]


def examples(data: Artifact, rows: Sequence[Row], main: Row) -> list[Example]:
    """Hits and misses of the main model, drawn by a fixed seed, hits first."""
    table = artifacts.read(main.evaluation, "eval").table("rankings")
    rank_E = table["rank"].to_numpy()
    rng = np.random.default_rng(0)
    hit_E, miss_E = (
        np.flatnonzero(which) for which in ((rank_E >= 0) & (rank_E < LISTED), (rank_E < 0) | (rank_E >= MISS))
    )
    chosen = [np.sort(rng.permutation(part)[:EACH]) for part in (hit_E, miss_E)]
    place = np.concatenate(chosen)
    events, listed = table["event"].to_numpy()[place], table.take(place).to_pylist()
    histories = _histories(data, events)
    titles = _titles(data)
    ranks = {row.label: _ranks(row, events) for row in rows}
    return [
        Example(
            "hit" if n < len(chosen[0]) else "miss", each["event"], each["user"],
            [titles[item] for item in histories[n][-HISTORY:]], max(0, len(histories[n]) - HISTORY), titles[each["target"]],
            [(label, found[n]) for label, found in ranks.items()],
            [Listed(rank + 1, titles[item], item == each["target"]) for rank, item in enumerate(each["items"][:LISTED])],
        )
        for n, each in enumerate(listed)
    ]  # fmt: skip


def _ranks(row: Row, event_N: np.ndarray) -> list[str]:
    """The target's place of each event, from 1; beyond the list where it is not in it."""
    table = artifacts.read(row.evaluation, "eval").table("rankings").select(["event", "rank", "items"])
    known = dict(zip(table["event"].to_pylist(), table["rank"].to_pylist(), strict=True))
    length = max(map(len, table["items"].slice(0, 100).to_pylist()), default=0)
    found = [known.get(event) for event in event_N.tolist()]
    return ["-" if rank is None else f"beyond {length}" if rank < 0 else str(rank + 1) for rank in found]


def _histories(data: Artifact, event_N: np.ndarray) -> list[list[str]]:
    """Original ids of what came before each event."""
    splits, sequences = data.table("splits"), _inputs.sequences(data)
    raw = data.table("items")["raw_id"].to_pylist()
    every = splits["event"].to_numpy()
    order = np.argsort(every, kind="stable")
    rows = order[np.searchsorted(every, event_N, sorter=order)]
    user_N, end_N = (splits[name].to_numpy()[rows] for name in ("user", "end"))
    starts = sequences.offsets[user_N]
    return [
        [raw[item] for item in sequences.items[start : start + end].tolist()]
        for start, end in zip(starts, end_N, strict=True)
    ]


def _titles(data: Artifact) -> dict[str, str]:
    """Original id -> title, or the id where there is none."""
    items = data.table("items")
    return {
        raw: title or raw for raw, title in zip(items["raw_id"].to_pylist(), items["title"].to_pylist(), strict=True)
    }


def explained(config: Report, data: Artifact, rows: Sequence[Row]) -> tuple[str, list[Table], str]:
    """(what, a table per token of the path, why there is none) for the first hit of the best run that has negatives."""
    of_catalogue = [row for row in rows if row.result["protocol"]["candidates"] == _protocol.FULL]
    models = [
        row for row in of_catalogue
        if row.is_lm and row.is_ranked and "inner_layers" in plugins.load("methods", row.kind).NEEDS
    ]  # fmt: skip
    if not models:
        return "", [], "no evaluated run has negatives from intermediate layers (train --method ilrec)"
    if config.explain == "off":
        return "", [], "not asked for (--explain auto)"
    main = max(models, key=lambda row: row.metrics.get("ndcg@10", 0.0))
    if config.explain == "auto" and not _is_small(main):
        return "", [], f"{main.name} would have to be loaded; --explain on does so"
    found = next((each for each in examples(data, [main], main) if each.kind == "hit"), None)
    if found is None:
        return "", [], f"{main.name} has no hit among its first {LISTED} to explain"
    table = artifacts.read(main.evaluation, "eval").table("rankings")
    place = table["event"].to_pylist().index(found.event)
    history = _histories(data, np.array([found.event]))[0]
    made = _explain(str(config.work), config.dataset, str(main.train.parent), main.manifest["digest"], tuple(history),
                    table["target"][place].as_py())  # fmt: skip
    text = (
        f"{main.name}, user {found.user}: the path to “{found.target}”, a token at a time. Shares are probabilities by each "
        f"candidate layer, by their ensemble and by the last layer; a negative (more than {made['alpha']:g} of the target's "
        "probability in the ensemble) is penalised by its weight."
    )
    return text, [_step(step, made["layers"]) for step in made["steps"]], ""


def _is_small(row: Row) -> bool:
    """Whether opening the model costs little: all its weights are in the run's folder, and few."""
    own = backbone.is_tiny(row.manifest["config"]["backbone"]) or row.manifest["config"]["tuning"] == "full"
    return own and sum(file["bytes"] for file in row.manifest["files"].values()) <= LARGEST


@lru_cache(maxsize=4)
def _explain(work: str, dataset: str, run: str, digest: str, history: tuple[str, ...], item: str) -> dict[str, Any]:
    """The run's own equations at every step; kept, since a page that is watched is written many times."""
    from ilrec_cli.stages._recommender import Recommender

    return Recommender(OpenModel(dataset=dataset, work=Path(work), run=run)).explain(history, item)


def _step(step: dict[str, Any], layers: list[int]) -> Table:
    columns = [Column("token"), Column("goes on"), *(Column(f"layer {layer}", heat=True) for layer in layers),
               Column("ensemble", heat=True), Column("last layer", heat=True), Column("negative"), Column("penalty", heat=True)]  # fmt: skip
    rows = [
        [f"{token['token']} (target)" if token["chosen"] else token["token"], token["continues"],
         *(token["layers"][str(layer)] for layer in layers), token["ensemble"], token["final"], token["negative"],
         token["penalty"]] for token in step["tokens"]
    ]  # fmt: skip
    title = f"Token {step['step']}: {step['chosen']}, one of {step['candidates']:,} that go on; {step['negatives']:,} negatives"
    return Table(f"explained-{step['step']}", title, columns, rows)
