"""Raw logs -> interactions, items, users, sequences and splits, with a card that counts what was dropped."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl

from ilrec_cli import artifacts, plugins, sequences
from ilrec_cli import config as configs
from ilrec_cli.console import Console
from ilrec_cli.errors import UserError
from ilrec_cli.settings import Preprocess
from ilrec_cli.stages import _inputs


def run(config: Preprocess) -> dict[str, Any]:
    """Write WORK/DATASET/data and print its statistics."""
    console = Console.of(config)
    target = _inputs.dataset_dir(config) / "data"
    raw = config.raw_dir or target.parent / "raw"
    source = _source(config, raw)
    settings = _resolve(config, source)
    given = {"seed": config.seed, **config.options} if source.GENERATED else config.options
    options = configs.build(source.Config, given, f"source '{plugins.short_name(source)}'")
    artifacts.refuse_foreign(target, "data")
    console.say(f"Reading {plugins.short_name(source)} {'data' if source.GENERATED else f'files in {raw}'}")
    interactions, items = plugins.part(source, "load").load(raw, config.dataset, options)
    dropped: dict[str, int] = {}
    interactions, passes = _filter(interactions, settings, dropped)
    interactions = _limit(interactions, config)
    interactions, users, items = _number(interactions, items, dropped)
    lengths = interactions.group_by("user", maintain_order=True).len()["len"].to_numpy().astype(np.int64)
    splits = sequences.leave_one_out(lengths)
    card: dict[str, Any] = {
        "dataset": config.dataset,
        "source": plugins.short_name(source),
        "settings": settings,
        "order": "user, timestamp, input row",
        "split": "leave-one-out",
        "max_history": config.max_history,
        "statistics": _statistics(len(users), len(items), lengths, splits),
        "dropped": dropped,
        "passes": passes,
    }
    recorded = {**configs.as_dict(config, control=False), **settings, "options": configs.as_dict(options)}
    before = artifacts.read_manifest(target)["digest"] if artifacts.exists(target) else None
    with artifacts.create(target, kind="data", config=recorded, seed=config.seed, parents={}) as folder:
        _write(folder, interactions, users, items, splits)
        artifacts.write_json(folder / "card.json", card)
    digest = artifacts.read(target, "data").digest
    _print(console, card, target)
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


def _source(config: Preprocess, raw: Path) -> ModuleType:
    """The plug-in that reads the raw files: the one asked for, or the only one that recognises them."""
    if config.source != "auto":
        source = plugins.load("datasets", config.source)
        if not source.GENERATED and not raw.is_dir():
            raise UserError(f"{raw}: no such folder. Put there: {source.EXPECTS}; or name another with --raw-dir")
        return source
    every = [plugins.load("datasets", name) for name in plugins.names("datasets")]
    expected = "; or ".join(
        f"{source.EXPECTS} ({plugins.short_name(source)})" for source in every if not source.GENERATED
    )
    if not raw.is_dir():
        raise UserError(
            f"unknown dataset '{config.dataset}': there is no folder {raw}. Put raw files there or name their folder "
            f"with --raw-dir. Expected: {expected}. Without files: --source synthetic"
        )
    matches = [source for source in every if not source.GENERATED and source.detect(raw)]
    if len(matches) != 1:
        names = ", ".join(map(plugins.short_name, matches)) or "none"
        raise UserError(f"{raw}: sources that recognise its files: {names}. Expected: {expected}. Choose with --source")
    return matches[0]


def _resolve(config: Preprocess, source: ModuleType) -> dict[str, Any]:
    """Filter settings, with the source's defaults where none was given."""
    given = {name: getattr(config, name) for name in source.DEFAULTS}
    return {name: source.DEFAULTS[name] if value is None else value for name, value in given.items()}


def _filter(
    table: pl.DataFrame, settings: dict[str, Any], dropped: dict[str, int]
) -> tuple[pl.DataFrame, list[list[int]]]:
    """Repeats, then the k-core; counts what each drops and refuses an empty rest."""
    if table.is_empty():
        raise UserError("the raw files hold no interaction")
    before = len(table)
    table = sequences.drop_repeats(table) if settings["repeats"] == "first" else sequences.in_order(table)
    dropped["repeated interactions"] = before - len(table)
    passes = list(sequences.core_passes(table, settings["user_k"], settings["item_k"]))
    counted, table = [list(sequences.counts(each)) for each in passes], passes[-1]
    dropped["interactions outside the k-core"] = before - dropped["repeated interactions"] - len(table)
    if table.is_empty():
        listed = "; ".join(f"{users:,} users, {items:,} items, {rows:,} interactions" for users, items, rows in counted)
        core = f"user_k {settings['user_k']}, item_k {settings['item_k']}"
        raise UserError(
            f"nothing is left after the k-core ({core}). Pass by pass: {listed}. Lower --user-k or --item-k"
        )
    return table, counted


def _limit(table: pl.DataFrame, config: Preprocess) -> pl.DataFrame:
    if config.limit_users is None:
        return table
    users = table["user"].unique().sort()
    chosen = np.random.default_rng(config.seed).permutation(len(users))[: config.limit_users]
    return table.filter(pl.col("user").is_in(users.gather(chosen).implode()))


def _number(
    table: pl.DataFrame, items: pl.DataFrame, dropped: dict[str, int]
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Number users and items by sorted raw id, whatever the order of the input; items without interactions go."""
    user_ids, item_ids = (table[name].unique().sort() for name in ("user", "item"))
    users = pl.DataFrame({"user": np.arange(len(user_ids), dtype=np.int32), "raw_id": user_ids})
    numbers = pl.DataFrame({"item": np.arange(len(item_ids), dtype=np.int32), "raw_id": item_ids})
    dropped["items that no remaining interaction has"] = len(items) - int(
        items["raw_id"].is_in(item_ids.implode()).sum()
    )
    items = numbers.join(items, on="raw_id", how="left", maintain_order="left", validate="1:1")
    items = items.with_columns(
        pl.col("source_id").fill_null(pl.col("raw_id")),
        pl.col("title", "description", "brand").fill_null(""),
        pl.col("categories").fill_null([]),
    )
    table = (
        table.rename({"user": "raw_user", "item": "raw_item"})
        .join(users.rename({"raw_id": "raw_user"}), on="raw_user", maintain_order="left")
        .join(numbers.rename({"raw_id": "raw_item"}), on="raw_item", maintain_order="left")
    )
    return sequences.in_order(table), users, items


def _statistics(users: int, items: int, lengths: np.ndarray, splits: sequences.Splits) -> dict[str, Any]:
    split, events = np.unique(splits.split, return_counts=True)
    count = dict(zip(split.tolist(), events.tolist(), strict=True))
    return {
        "users": users,
        "items": items,
        "interactions": int(lengths.sum()),
        "sparsity": 1 - int(lengths.sum()) / (users * items),
        "mean_length": float(lengths.mean()),
        "training_targets": count.get("train", 0),
        "validation_targets": count.get("valid", 0),
        "test_targets": count.get("test", 0),
        "users_too_short": int((lengths < sequences.MIN_TESTED).sum()),
    }


def _write(
    folder: Path, table: pl.DataFrame, users: pl.DataFrame, items: pl.DataFrame, splits: sequences.Splits
) -> None:
    columns = ("user", "item", "timestamp", "rating")
    artifacts.write_table(folder, "interactions", {name: table[name].to_arrow() for name in columns})
    artifacts.write_table(folder, "users", {name: users[name].to_arrow() for name in users.columns})
    artifacts.write_table(folder, "items", {name: items[name].to_arrow() for name in items.columns})
    grouped = table.group_by("user", maintain_order=True).agg(items=pl.col("item"))
    artifacts.write_table(folder, "sequences", {name: grouped[name].to_arrow() for name in grouped.columns})
    rows = {"event": np.arange(len(splits.user)), **splits._asdict()}
    artifacts.write_table(folder, "splits", rows)


def _print(console: Console, card: dict[str, Any], target: Path) -> None:
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
    if statistics["users_too_short"]:
        console.say(
            f"{statistics['users_too_short']:,} users have fewer than 3 interactions: they train, but are not tested"
        )
    console.say(f"\nData: {target}\nNext: ilrec build-ids --dataset {card['dataset']}")
