"""What makes results on a dataset hard to trust, counted: ties, leaks in time, repeats, duplicates, missing text."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from ilrec_cli.artifacts import Artifact
from ilrec_cli.console import Console
from ilrec_cli.histories import Sequences
from ilrec_cli.settings import AuditData
from ilrec_cli.stages import _inputs

MIN_WORDS = 4  # of a title, before one may differ
NOTABLE = 0.01  # share from which a finding is worth a warning


class Finding(NamedTuple):
    """`count` of `total` things; `advice` is printed where the share is notable."""

    what: str
    number: int
    total: int
    advice: str

    @property
    def share(self) -> float:
        return self.number / self.total if self.total else 0.0


def run(config: AuditData) -> dict[str, Any]:
    """Print every finding with its share, and what to do about the notable ones."""
    console = Console.of(config)
    data = _inputs.read_data(config)
    findings = [*_time(data), *_repeats(data), *_cold(data), *_text(data)]
    rows = [[each.what, each.number, each.total, f"{100 * each.share:.1f} %"] for each in findings]
    console.table([f"{config.dataset}", "count", "of", "share"], rows)
    notable = [each for each in findings if each.share >= NOTABLE and each.advice]
    console.say()
    for each in notable:
        console.say(f"note: {each.what}: {each.advice}")
    if not notable:
        console.say("Nothing notable.")
    return {"findings": {each.what: {"count": each.number, "of": each.total, "share": each.share} for each in findings}}


def _time(data: Artifact) -> list[Finding]:
    """Ties at the boundaries of the split, and targets that lie before other users' training events."""
    time = data.table("interactions")["timestamp"].to_numpy()
    sequences = _inputs.sequences(data)
    start, stop = _inputs.training_part(data)
    user = np.repeat(np.arange(len(sequences)), sequences.lengths)
    place = np.arange(len(user)) - sequences.offsets[user]
    training = (place >= start[user]) & (place < stop[user])
    found, places_only = [], data.json("card.json")["ticks_per_second"] is None
    for split in ("valid", "test"):
        _, users, end = _inputs.events(data, split)
        at = sequences.offsets[users] + end
        tied = int(((time[at] == time[at - 1]) & (end >= 1)).sum()) if not places_only else 0
        found.append(
            Finding(
                f"{split} targets with the time of the item before",
                tied,
                len(at),
                "the order of the file decides which of the two is the target; another file order is another test set",
            )
        )
    if places_only or not training.any():
        return found
    _, users, end = _inputs.events(data, "test")
    target_time = time[sequences.offsets[users] + end]
    early = int((target_time < _latest_of_others(time, user, training, users)).sum())
    advice = "models are trained on events later than what they are tested on; --split time avoids that"
    return [*found, Finding("test targets before another user's last training event", early, len(end), advice)]


def _latest_of_others(time: np.ndarray, user: np.ndarray, training: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """The time of the last training event of anybody but the asked user."""
    latest = np.full(int(user.max()) + 1, np.iinfo(np.int64).min)
    np.maximum.at(latest, user[training], time[training])
    first, *rest = np.argsort(latest)[::-1][:2].tolist()
    second = latest[rest[0]] if rest else np.iinfo(np.int64).min
    return np.where(asked == first, second, latest[first])


def _repeats(data: Artifact) -> list[Finding]:
    sequences = _inputs.sequences(data)
    user = np.repeat(np.arange(len(sequences)), sequences.lengths)
    key = user * (int(sequences.items.max()) + 1) + sequences.items
    _, first = np.unique(key, return_index=True)
    again = np.ones(len(key), dtype=bool)
    again[first] = False
    consecutive = (sequences.items[1:] == sequences.items[:-1]) & (user[1:] == user[:-1])
    _, users, end = _inputs.events(data, "test")
    known = int(again[sequences.offsets[users] + end].sum())
    advice = "seen items are not masked, so a model that repeats the history scores; say so, or --repeats first"
    return [
        Finding("repeated interactions of a user with an item", int(again.sum()), len(key), ""),
        Finding("interactions that repeat the one before", int(consecutive.sum()), len(key), advice),
        Finding("test targets that are in their history", known, len(end), advice),
    ]


def _cold(data: Artifact) -> list[Finding]:
    sequences, seen = _inputs.sequences(data), _inputs.training_popularity(data) > 0
    found = []
    for split in ("valid", "test"):
        _, users, end = _inputs.events(data, split)
        cold = int((~seen[_targets(sequences, users, end)]).sum())
        advice = "no model that learns from interactions alone can rank them; report them apart"
        found.append(Finding(f"{split} targets never seen in training", cold, len(end), advice))
    return found


def _text(data: Artifact) -> list[Finding]:
    items = data.table("items")
    titles = [title for title in items["title"].to_pylist() if title]
    exact = Counter(titles)
    texts = zip(*(items[name].to_pylist() for name in ("title", "description", "brand", "categories")), strict=True)
    silent = sum(not any(each) for each in texts)
    total = len(items)
    return [
        Finding("items without a title", total - len(titles), total, "identifiers and prompts from text say nothing of them"),
        Finding("items without any text", silent, total, ""),
        Finding("items that share their title", sum(count for count in exact.values() if count > 1), total,
                "title identifiers (BIGRec) cannot tell them apart"),
        Finding("titles like another but for one word, case or punctuation", _alike(list(exact)), len(exact),
                "variants of one product may be several items"),
    ]  # fmt: skip


def _alike(titles: list[str]) -> int:
    """How many titles have the same words as another, give or take one (of at least four)."""
    holders: dict[frozenset[str], set[int]] = {}
    for number, title in enumerate(titles):
        words = frozenset(re.findall(r"\w+", title.casefold()))
        shorter = [words - {word} for word in words] if len(words) >= MIN_WORDS else []
        for key in (words, *shorter):
            holders.setdefault(key, set()).add(number)
    return len(set().union(*(found for found in holders.values() if len(found) > 1)))


def _targets(sequences: Sequences, user: np.ndarray, end: np.ndarray) -> np.ndarray:
    return sequences.items[sequences.offsets[user] + end]
