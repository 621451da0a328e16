"""Raw logs -> interactions, items, users, sequences and splits, with a card that counts what was dropped."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from ilrec_cli import artifacts, plugins, splits
from ilrec_cli import config as configs
from ilrec_cli.console import Console
from ilrec_cli.datasets import _names
from ilrec_cli.datasets._faults import Faults
from ilrec_cli.datasets._raw import Raw, Reading
from ilrec_cli.errors import UserError
from ilrec_cli.histories import Sequences, targets
from ilrec_cli.negatives import candidate_sets
from ilrec_cli.settings import Preprocess
from ilrec_cli.stages import _dataset, _inputs, _raw_files


def run(config: Preprocess) -> dict[str, Any]:
    """Write WORK/DATASET/data and print its statistics."""
    console = Console.of(config)
    target = _inputs.dataset_dir(config) / "data"
    _dataset.check_moments(config)
    artifacts.refuse_foreign(target, "data")
    source, raw_dir = _raw_files.find(config, target.parent, console)
    settings = _resolve(config, source)
    options = _options(config, source)
    console.say(f"Reading {plugins.short_name(source)} {'data' if source.GENERATED else f'files in {raw_dir}'}")
    faults = Faults(config.on_error == "skip", config.max_errors)
    reading = Reading(faults, config.block_mb << 20, config.clean, config.max_text)
    raw = plugins.part(source, "load").load(raw_dir, config.dataset, options, reading)
    if settings["split"] is None:
        settings["split"] = "given" if "split" in raw.interactions.columns else "leave-one-out"
    found = _dataset.filtered(raw, config, settings)
    dropped, limited = found.dropped, _dataset.limited(found.table, config)
    dropped["interactions of users that --limit-users left out"] = len(found.table) - len(limited)
    made = _dataset.numbered(limited, found, raw, dropped)
    split, rule = _dataset.split(made, config, settings, raw.ticks)
    card: dict[str, Any] = {
        "dataset": config.dataset,
        "source": plugins.short_name(source),
        "settings": settings,
        "order": "user, timestamp, input row",
        "split": rule,
        "ticks_per_second": raw.ticks,  # null: timestamps are places in a sequence
        "max_history": config.max_history,
        "statistics": _statistics(made, split),
        "dropped": dropped | {"lines that could not be read": len(faults.rejected)},
        "while_reading": dict(sorted(reading.counts.items())),
        "passes": found.passes,
    }
    card["published"] = _published(config, card["statistics"])
    recorded = {**configs.as_dict(config, control=False), **settings, "options": configs.as_dict(options)}
    before = artifacts.read_manifest(target)["digest"] if artifacts.exists(target) else None
    with artifacts.create(target, kind="data", config=recorded, seed=config.seed, parents={}) as folder:
        _write(folder, made, split)
        _write_candidates(folder, made, split, raw, config)
        if faults.rejected:
            artifacts.write_text(folder / "rejected.jsonl", "".join(json.dumps(row) + "\n" for row in faults.rejected))
        artifacts.write_json(folder / "card.json", card)
    digest = artifacts.read(target, "data").digest
    _print(console, card, target, config)
    if before not in (None, digest):
        _warn_dependents(config, digest, console)
    return {"path": str(target), "digest": digest, **card["statistics"]}


def _warn_dependents(config: Preprocess, digest: str, console: Console) -> None:
    """Name what was made from other versions of the data: later stages will refuse it."""
    root = _inputs.dataset_dir(config)
    found = {**_inputs.finished(root / "ids", "ids"), **_inputs.models(config)["cf"], **_inputs.models(config)["run"]}
    stale = [name for name, path in found.items() if artifacts.read_manifest(path)["parents"].get("data") != digest]
    if stale:
        console.warn(
            f"these were made from another version of the data and will be refused: {', '.join(sorted(stale))}"
        )


def _resolve(config: Preprocess, source: ModuleType) -> dict[str, Any]:
    """Filter settings, with the source's defaults where none was given; the split may still be open."""
    given = {name: getattr(config, name) for name in source.DEFAULTS}
    resolved = {name: source.DEFAULTS[name] if value is None else value for name, value in given.items()}
    return {**resolved, "split": config.split}


def _options(config: Preprocess, source: ModuleType) -> Any:
    """The source's options: -o key=value, the command's seed for generated data, column flags for tables."""
    columns = {name: getattr(config, name) for name in ("user_col", "item_col", "time_col", "rating_col")}
    named = {name: value for name, value in columns.items() if value is not None}
    fields = {field.name for field in configs.fields(source.Config)}
    for name in named:
        if name not in fields:
            flag = "--" + name.replace("_", "-")
            raise UserError(
                f"{flag}: {plugins.short_name(source)} files have fixed columns. Add --source table to read plain tables"
            )
    given = {"seed": config.seed} if source.GENERATED else {}
    return configs.build(source.Config, {**given, **named, **config.options}, f"source '{plugins.short_name(source)}'")


def _statistics(made: _dataset.Numbered, split: splits.Splits) -> dict[str, Any]:
    users, items, interactions = len(made.users), len(made.items), len(made.table)
    count = np.bincount(split.split, minlength=len(splits.NAMES)).tolist()
    tested = np.unique(split.user[split.split == splits.TEST])
    return {
        "users": users,
        "items": items,
        "interactions": interactions,
        "sparsity": 1 - interactions / (users * items),
        "mean_length": interactions / users,
        "training_targets": count[splits.TRAIN],
        "validation_targets": count[splits.VALID],
        "test_targets": count[splits.TEST],
        "users_without_test": users - len(tested),
    }


def _published(config: Preprocess, statistics: dict[str, Any]) -> dict[str, Any] | None:
    """The counts that a paper states for a dataset of this name, and whether ours are the same."""
    known = _names.PUBLISHED.get(_names.category(config.dataset) or "")
    if known is None:
        return None
    figures = {name: getattr(known, name) for name in ("users", "items", "interactions")}
    return {
        **figures,
        "source": known.source,
        "same": all(statistics[name] == count for name, count in figures.items()),
    }


def _write(folder: Path, made: _dataset.Numbered, split: splits.Splits) -> None:
    columns = ("user", "item", "timestamp", "rating")
    artifacts.write_table(folder, "interactions", {name: made.table[name].to_arrow() for name in columns})
    people = {name: made.users[name].to_arrow() for name in made.users.columns}
    artifacts.write_table(folder, "users", {**people, "train_from": split.train_from, "train_to": split.train_to})
    artifacts.write_table(folder, "items", {name: made.items[name].to_arrow() for name in made.items.columns})
    offsets = np.concatenate([[0], np.cumsum(made.lengths)]).astype(np.int32)
    items = pa.ListArray.from_arrays(pa.array(offsets), made.table["item"].to_arrow())
    artifacts.write_table(folder, "sequences", {"user": np.arange(len(made.users)), "items": items})
    names = pa.DictionaryArray.from_arrays(pa.array(split.split), pa.array(splits.NAMES)).cast(pa.string())
    rows = {"event": np.arange(len(split.user)), "user": split.user, "end": split.end, "split": names}
    artifacts.write_table(folder, "splits", rows)


def _write_candidates(
    folder: Path, made: _dataset.Numbered, split: splits.Splits, raw: Raw, config: Preprocess
) -> None:
    """Candidate sets of every held-out event: those that the source publishes, or drawn ones."""
    held_out = np.flatnonzero(split.split != splits.TRAIN)
    if raw.candidates is not None:
        events, sets = _published_sets(made, split, raw.candidates)
    elif config.candidates:
        sequences = Sequences(
            made.table["item"].to_numpy().astype(np.int64), np.concatenate([[0], np.cumsum(made.lengths)])
        )
        user = split.user[held_out]
        target = targets(sequences, user, split.end[held_out])
        rng = np.random.default_rng([config.seed, 1])  # a stream of its own: other draws do not move it
        try:
            sets = candidate_sets(sequences, user, target, config.candidates, len(made.items), rng)
        except ValueError as error:
            raise UserError(f"--candidates {config.candidates}: {error}") from error
        events = held_out
    else:
        return
    offsets = np.arange(len(events) + 1, dtype=np.int32) * sets.shape[1]
    lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(sets.reshape(-1).astype(np.int32)))
    artifacts.write_table(folder, "candidates", {"event": events, "items": lists})


def _published_sets(
    made: _dataset.Numbered, split: splits.Splits, offered: pl.DataFrame
) -> tuple[np.ndarray, np.ndarray]:
    """(events, candidates_EC) as the source gives them, one set for the last event of each of its users."""
    last = (
        pl.DataFrame({"user": split.user.astype(np.int32), "event": np.arange(len(split.user))})
        .group_by("user")
        .agg(pl.col("event").max())
    )
    numbers = made.items.select(pl.col("raw_id").alias("items"), "item")
    table = (
        offered.join(made.users, left_on="user", right_on="raw_id", how="inner", maintain_order="left")
        .select(pl.col("user_right").alias("number"), "items")
        .join(last, left_on="number", right_on="user", how="inner", maintain_order="left")
        .sort("event")
    )
    long = table.explode("items").join(numbers, on="items", how="left", maintain_order="left")
    width = table["items"].list.len()
    if width.n_unique() != 1:
        raise UserError("the source's candidate lists differ in length; they must all have as many names")
    return table["event"].to_numpy(), long["item"].to_numpy().reshape(len(table), -1)


def _print(console: Console, card: dict[str, Any], target: Path, config: Preprocess) -> None:
    statistics = card["statistics"]
    shown = {
        **statistics,
        "sparsity": f"{100 * statistics['sparsity']:.2f} %",
        "mean_length": f"{statistics['mean_length']:.2f}",
    }
    console.table([card["dataset"], ""], [[name.replace("_", " "), value] for name, value in shown.items()])
    for what, count in card["dropped"].items():
        if count:
            console.say(f"dropped: {count:,} {what}")
    for what, count in card["while_reading"].items():
        if count:
            console.say(f"while reading: {count:,} {what}")
    if known := card["published"]:
        verdict = "the same counts" if known["same"] else (
            f"other counts: {known['users']:,} users, {known['items']:,} items, {known['interactions']:,} interactions"
        )  # fmt: skip
        console.say(f"published: {verdict} ({known['source']})")
    if statistics["users_without_test"]:
        console.say(f"{statistics['users_without_test']:,} users have no test target ({card['split']['rule']})")
    console.say(f"\nData: {target}\nNext: ilrec build-ids {_inputs.flags(config)}")
