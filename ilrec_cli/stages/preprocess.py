"""Raw logs -> interactions, items, users, sequences and splits, with a card that counts what was dropped."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

from ilrec_cli import artifacts, plugins
from ilrec_cli import config as configs
from ilrec_cli.console import Console
from ilrec_cli.datasets import _names
from ilrec_cli.datasets._faults import Faults
from ilrec_cli.datasets._raw import Raw, Reading
from ilrec_cli.errors import UserError
from ilrec_cli.settings import Preprocess
from ilrec_cli.spill import Spill
from ilrec_cli.stages import _dataset, _inputs, _raw_files, _said, _sieve, _tables
from ilrec_cli.stages._splitter import Splitter


def run(config: Preprocess) -> dict[str, Any]:
    """Write WORK/DATASET/data and print its statistics."""
    root = _inputs.dataset_dir(config)
    _sieve.check_moments(config)
    artifacts.refuse_foreign(root / "data", "data")
    with Spill(root / "log", config.memory_mb << 20) as spill:
        return _run(config, root / "data", spill)


def _run(config: Preprocess, target: Path, spill: Spill) -> dict[str, Any]:
    console = Console.of(config)
    source, raw_dir = _raw_files.find(config, target.parent, console)
    settings, options = _resolve(config, source), _options(config, source)
    console.say(f"Reading {plugins.short_name(source)} {'data' if source.GENERATED else f'files in {raw_dir}'}")
    faults = Faults(config.on_error == "skip", config.max_errors)
    reading = Reading(faults, config.block_mb << 20, config.clean, config.max_text, spill=spill)
    raw = plugins.part(source, "load").load(raw_dir, config.dataset, options, reading)
    if settings["split"] is None:
        settings["split"] = "given" if raw.interactions.has_split else "leave-one-out"
    if not len(raw.interactions):
        raise UserError(f"the raw files hold no interaction{faults.summary()}")
    found = _dataset.filtered(raw, config, settings, spill)
    _dataset.limit_users(found, config)
    made = _dataset.numbered(found, raw)
    splitter = Splitter(made, config, settings, raw.clock(), published=raw.interactions.has_split)
    recorded = {**configs.as_dict(config, control=False), **settings, "options": configs.as_dict(options)}
    before = artifacts.read_manifest(target)["digest"] if artifacts.exists(target) else None
    with artifacts.create(target, kind="data", config=recorded, seed=config.seed, parents={}) as folder:
        statistics, misfits = _tables.write(folder, made, splitter, raw.candidates, config)
        unsaid = _said.write(folder, made, raw.said)
        if faults.rejected:
            artifacts.write_text(folder / "rejected.jsonl", "".join(json.dumps(row) + "\n" for row in faults.rejected))
        card: dict[str, Any] = {
            "dataset": config.dataset,
            "source": plugins.short_name(source),
            "settings": settings,
            "order": "user, timestamp, input row",
            "split": splitter.rule,
            "ticks_per_second": raw.ticks,  # null: timestamps are places in a sequence
            "max_history": config.max_history,
            "statistics": statistics,
            "dropped": found.dropped | {"lines that could not be read": len(faults.rejected)},
            "while_reading": dict(sorted(reading.counts.items())),
            "passes": found.passes,
        }
        if misfits:
            card["dropped"]["published candidate sets that fit no target"] = misfits
        card["dropped"] |= unsaid
        card["published"] = _published(config, statistics)
        artifacts.write_json(folder / "card.json", card)
    if spill.written:
        console.detail(f"{spill.written >> 20:,} MiB of interactions waited in files (--memory-mb {config.memory_mb})")
    _say_candidates(config, raw, misfits, console)
    digest = artifacts.read(target, "data").digest
    _print(console, card, target, config)
    if before not in (None, digest):
        _warn_dependents(config, digest, console)
    return {"path": str(target), "digest": digest, **statistics}


def _say_candidates(config: Preprocess, raw: Raw, misfits: int, console: Console) -> None:
    """Warn where the candidate sets are others than were asked for, or none."""
    if raw.candidates is None:
        return
    if misfits == len(raw.candidates):
        console.warn("no candidates.parquet: none of the published candidate sets fits a target")
    elif config.candidates:
        console.warn(f"--candidates {config.candidates} draws none: this source publishes its own sets, which are used")


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
