"""What searches share: values to try, combinations of them, a line for every trial that ended, the table.

A trial is known by its identity: everything that decides its result. Trials that are recorded are not run again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ilrec_cli import artifacts, folders
from ilrec_cli import config as configs
from ilrec_cli.console import Console
from ilrec_cli.errors import UserError, nearest
from ilrec_cli.interrupt import Stopped
from ilrec_cli.json_log import read_log

MOST = 1000  # combinations that are all tried; more need --trials
DRAWN_FROM = 10**6
SHOWN = 20  # rows of the table
FIGURE = "valid_ndcg@10"
BEST = "best.yaml"
Row = dict[str, Any]


class Trial(NamedTuple):
    """One combination: what it sets, everything it is run with, and everything that decides its result."""

    changed: dict[str, Any]
    settings: Any
    options: dict[str, Any]
    identity: dict[str, Any]


def axes(given: dict[str, Any], known: Iterable[str], where: str, hint: str) -> dict[str, list[Any]]:
    """The values to try of every key: a list, or text with commas between."""
    if not given:
        raise UserError(f"nothing to try. {hint}")
    names, found = list(known), {}
    for key, values in given.items():
        if key not in names:
            raise UserError(f"{where}: unknown setting '{key}'.{nearest(key, names)} Known: {', '.join(names)}")
        listed = (
            values if isinstance(values, list) else [part.strip() for part in str(values).split(",") if part.strip()]
        )
        if not listed:
            raise UserError(f"{where}: -o {key} lists no value")
        found[key] = listed
    return found


def combinations(
    axes: dict[str, list[Any]], make: Callable[[dict[str, Any]], Trial], trials: int | None, seed: int
) -> list[Trial]:
    """A trial of every combination of the values, or `trials` of them that the seed draws; more keep those there were.

    Values that are equal however they are spelled, such as 1e-3 and 0.001, are one trial.
    """
    count = math.prod(map(len, axes.values()))
    if count > DRAWN_FROM or (trials is None and count > MOST):
        raise UserError(f"-o lists {count:,} combinations: draw some with --trials N, or list fewer values")
    drawn = trials is not None and trials < count
    places = np.random.default_rng(seed).permutation(count) if drawn else np.arange(count)
    found: dict[str, Trial] = {}
    for row in zip(*np.unravel_index(places, [len(values) for values in axes.values()]), strict=True):
        trial = make({key: axes[key][index] for key, index in zip(axes, row, strict=True)})
        found.setdefault(json.dumps(trial.identity, sort_keys=True), trial)
        if len(found) == trials:
            break
    return list(found.values())


@contextmanager
def opened(folder: Path, *, overwrite: bool) -> Iterator[Path]:
    """trials.jsonl of a search, whose folder is locked; without a line that was cut short."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "trials.jsonl"
    with folders.locked(folder, wait=False) as free:
        if not free:
            raise UserError(f"{folder}: another process runs this search. Wait for it, or choose another --name")
        if overwrite:
            log.unlink(missing_ok=True)
            (folder / BEST).unlink(missing_ok=True)
        artifacts.write_text(log, "".join(json.dumps(row) + "\n" for row in read_log(log)))
        yield log


def run_all(
    trials: Sequence[Trial], log: Path, run: Callable[[Trial], Row], console: Console, *, at_once: int = 1,
    stop: Callable[[], None] = lambda: None,
) -> list[Row]:  # fmt: skip
    """The rows of all trials, best first; `at_once` of them run beside each other, and `stop` ends those under way."""
    recorded = read_log(log)
    missing = [trial for trial in trials if found(trial, recorded) is None]
    console.say(f"{len(trials) - len(missing)} of {len(trials)} trials are recorded")
    one = partial(run_one, run=run, console=console)
    with ThreadPoolExecutor(at_once) if at_once > 1 else nullcontext() as pool:
        done = pool.map(one, missing) if pool is not None else map(one, missing)
        try:
            for number, row in enumerate(done, start=len(trials) - len(missing) + 1):
                recorded.append(write(log, row))
                console.say(f"Trial {number} of {len(trials)}: {outcome(row)}")
        except BaseException:
            if pool is not None:
                pool.shutdown(wait=False, cancel_futures=True)
                stop()
            raise
    rows = [found(trial, recorded) for trial in trials]
    return best_first([row for row in rows if row is not None])


def run_one(trial: Trial, run: Callable[[Trial], Row], console: Console, **more: Any) -> Row:
    """What came of a trial, with whatever `more` is to be kept of it."""
    console.say(f"\nTrying {named(trial.changed)}")
    try:
        return {"changed": trial.changed, **run(trial), **more, "identity": trial.identity}
    except (Stopped, KeyboardInterrupt):
        console.say("\nstopped; the same command goes on with this trial")
        raise


def write(log: Path, row: Row) -> Row:
    """A line of the log."""
    with log.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    return row


def outcome(row: Row) -> str:
    """A trial in a line."""
    return f"{named(row['changed'])}: " + ("failed" if "failed" in row else f"validation NDCG@10 {row[FIGURE]:.4f}")


def found(trial: Trial, recorded: Sequence[Row]) -> Row | None:
    """What came of a trial before."""
    return next((row for row in recorded if row["identity"] == trial.identity), None)


def best_first(rows: Sequence[Row]) -> list[Row]:
    """By validation NDCG@10, of equal ones the earlier; those that failed last."""
    return sorted(rows, key=lambda row: ("failed" in row, -(row[FIGURE] or 0.0)))


def write_best(folder: Path, rows: Sequence[Row], as_config: Callable[[Row], dict[str, Any]]) -> Path:
    """The best trial's settings as a file; `UserError`, and no file, where all failed."""
    file = folder / BEST
    if not rows or "failed" in rows[0]:
        file.unlink(missing_ok=True)  # of other trials
        first = rows[0]["failed"] if rows else "none was run"
        raise UserError(f"all {len(rows)} trials failed, see {folder / 'trials.jsonl'}; the first: {first}")
    artifacts.write_text(file, configs.to_yaml(as_config(rows[0])))
    return file


def named(changed: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in changed.items())


def show(rows: Sequence[Row], figures: Sequence[str], console: Console) -> None:
    """The best trials as a table."""
    keys = list(dict.fromkeys(key for row in rows for key in row["changed"]))
    table = [[*(str(row["changed"].get(key, "-")) for key in keys), *(row.get(name) for name in figures), round(row["seconds"])]
             for row in rows[:SHOWN]]  # fmt: skip
    console.say()
    console.table([*keys, *figures, "seconds"], table)
