"""From what a source read to numbered tables: filters in their order, numbers by sorted id, splits."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from ilrec_cli import sequences, splits
from ilrec_cli.datasets._raw import Raw
from ilrec_cli.errors import UserError
from ilrec_cli.settings import Preprocess

Settings = dict[str, Any]


class Filtered(NamedTuple):
    """Interactions in the total order; what each filter dropped; counts at each pass of the core.

    user and item are places in `users` and `items`, the sorted ids of all that the source read: numbers that stay in
    order when some of them go, so that one sort is enough.
    """

    table: pl.DataFrame
    users: pl.Series
    items: pl.Series
    dropped: dict[str, int]
    passes: list[sequences.Counts]


class Numbered(NamedTuple):
    """Interactions by (user, time, row), users and items numbered by sorted id, and each user's number of interactions."""

    table: pl.DataFrame
    users: pl.DataFrame
    items: pl.DataFrame
    lengths: np.ndarray


def filtered(raw: Raw, config: Preprocess, settings: Settings) -> Filtered:
    """Rating, dates, repeats, k-core; `UserError` where nothing is left, with the counts at every pass."""
    if raw.interactions.is_empty():
        raise UserError("the raw files hold no interaction")
    (user, users), (item, items) = (_ranked(raw.interactions[name]) for name in ("user", "item"))
    table = raw.interactions.with_columns(user=user, item=item)
    dropped: dict[str, int] = {}

    def drop(what: str, kept: pl.DataFrame) -> pl.DataFrame:
        dropped[what] = len(table) - len(kept)
        if kept.is_empty():
            raise UserError(
                f"nothing is left: the filters dropped all {len(raw.interactions):,} interactions ({_listed(dropped)})"
            )
        return kept

    if config.min_rating is not None:
        table = drop(
            f"interactions with a rating below {config.min_rating:g}, or none",
            table.filter(pl.col("rating") >= config.min_rating),
        )
    if config.since is not None:
        table = drop(
            f"interactions before {config.since}",
            table.filter(pl.col("timestamp") >= moment(config.since, "--since", raw.ticks)),
        )
    if config.until is not None:
        table = drop(
            f"interactions from {config.until} on",
            table.filter(pl.col("timestamp") < moment(config.until, "--until", raw.ticks)),
        )
    if settings["repeats"] == "first":
        table = drop("repeated interactions", sequences.drop_repeats(table))
    else:
        table = sequences.in_order(table)
    table = table.drop("row")  # its work is done: the order is that of the table
    passes: list[sequences.Counts] = []
    rows: np.ndarray | None = None
    for left, counted in sequences.core_passes(table, settings["user_k"], settings["item_k"]):
        rows = left
        passes.append(counted)
    dropped["interactions outside the k-core"] = passes[0][2] - passes[-1][2]
    if not passes[-1][2]:
        listed = "; ".join(
            f"{users:,} users, {items:,} items, {count:,} interactions" for users, items, count in passes
        )
        core = f"user_k {settings['user_k']}, item_k {settings['item_k']}"
        raise UserError(
            f"nothing is left after the k-core ({core}). Pass by pass: {listed}. Lower --user-k or --item-k"
        )
    return Filtered(table if rows is None else table[rows], users, items, dropped, passes)


def check_moments(config: Preprocess) -> None:
    """Refuse what is no date or time before anything is read."""
    for flag, texts in (("--since", [config.since]), ("--until", [config.until]), ("--split-at", config.split_at)):
        for text in texts:
            if text is not None:
                moment(text, flag, 1)


def moment(text: str, flag: str, ticks: int | None) -> int:
    """A date, or a time in the log's own unit, as the log's unit (`ticks` a second, UTC)."""
    if ticks is None:
        raise UserError(f"{flag}: these data have no times, only the order of each user's interactions")
    try:
        return int(text)
    except ValueError:
        pass
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise UserError(f"{flag} is '{text}', expected a date such as 2016-10-01 or a number") from error
    return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * ticks)


def limited(table: pl.DataFrame, config: Preprocess) -> pl.DataFrame:
    """Interactions of `limit_users` users, drawn by the seed from the users sorted by id."""
    if config.limit_users is None:
        return table
    users = table["user"].unique().sort()
    chosen = np.random.default_rng(config.seed).permutation(len(users))[: config.limit_users]
    return table.filter(pl.col("user").is_in(users.gather(chosen).implode()))


def numbered(table: pl.DataFrame, found: Filtered, raw: Raw, dropped: dict[str, int]) -> Numbered:
    """Number the users and items that are left by sorted raw id; items without interactions go.

    Items that are offered as candidates stay.
    """
    names, offered = found.items, pl.Series(dtype=pl.String)
    if raw.candidates is not None:
        offered = raw.candidates["items"].explode().unique()
        names = pl.concat([names, offered]).unique().sort()
        place = names.search_sorted(found.items).to_numpy()
        table = table.with_columns(item=pl.Series(place[table["item"].to_numpy()]))
    user, user_ids = _dense(table["user"], found.users, pl.Series(dtype=pl.String))
    item, item_ids = _dense(table["item"], names, offered)
    table = table.with_columns(user=user, item=item)
    users, items = pl.DataFrame({"raw_id": user_ids}), pl.DataFrame({"raw_id": item_ids})
    known = raw.items
    dropped["items that no remaining interaction has"] = len(known) - int(
        known["raw_id"].is_in(items["raw_id"].implode()).sum()
    )
    text = items.select(pl.int_range(pl.len(), dtype=pl.Int32).alias("item"), "raw_id").join(
        known, on="raw_id", how="left", maintain_order="left", validate="1:1"
    )
    text = text.with_columns(
        pl.col("source_id").fill_null(pl.col("raw_id")),
        pl.col("title", "description", "brand").fill_null(""),
        pl.col("categories").fill_null([]),
    )
    people = users.select(pl.int_range(pl.len(), dtype=pl.Int32).alias("user"), "raw_id")
    return Numbered(table, people, text, np.bincount(table["user"].to_numpy(), minlength=len(people)))


def split(
    made: Numbered, config: Preprocess, settings: Settings, ticks: int | None
) -> tuple[splits.Splits, dict[str, Any]]:
    """The splits, and how they were made, for the card."""
    rule = settings["split"]
    if rule == "leave-one-out":
        return splits.leave_one_out(made.lengths), {"rule": rule}
    if rule == "ratio":
        return splits.by_ratio(made.lengths, _three(config)), {"rule": rule, "ratio": list(config.split_ratio)}
    if rule == "given":
        return _given(made), {"rule": rule}
    if ticks is None:
        raise UserError("--split time: these data have no times, only the order of each user's interactions")
    time = made.table["timestamp"].to_numpy()
    bounds = [moment(text, "--split-at", ticks) for text in config.split_at] or splits.times_by_ratio(
        time, _three(config)
    )
    if bounds[0] > bounds[1]:
        raise UserError(
            f"--split-at is {','.join(config.split_at)}, expected the start of validation before that of test"
        )
    return splits.by_time(made.lengths, time, *bounds), {"rule": rule, "valid_from": bounds[0], "test_from": bounds[1]}


def _given(made: Numbered) -> splits.Splits:
    if "split" not in made.table.columns:
        raise UserError("--split given: this source has no split of its own; choose leave-one-out, ratio or time")
    label = made.table["split"].replace_strict(
        dict(zip(splits.NAMES, range(3), strict=True)), default=-1, return_dtype=pl.Int64
    )
    try:
        return splits.given(made.lengths, label.fill_null(-1).to_numpy())
    except ValueError as error:
        raise UserError(f"the published split cannot be kept: {error}. Choose another with --split") from error


def _three(config: Preprocess) -> tuple[float, float, float]:
    train, valid, test = config.split_ratio
    return train, valid, test


def _ranked(ids: pl.Series) -> tuple[pl.Series, pl.Series]:
    """(each id's place among the sorted ids, the sorted ids) of interned ids."""
    every = ids.unique()
    names = pl.DataFrame({"code": every.to_physical(), "raw_id": every.cast(pl.String)}).sort("raw_id")
    place = np.zeros(int(names["code"].max() or 0) + 1, dtype=np.int32)  # type: ignore[arg-type]
    place[names["code"].to_numpy()] = np.arange(len(names), dtype=np.int32)
    return pl.Series(place[ids.to_physical().to_numpy()]), names["raw_id"]


def _dense(places: pl.Series, names: pl.Series, kept: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Places without gaps, and the names they stand for: those that occur, and those that are to be kept."""
    there = np.zeros(len(names), dtype=bool)
    there[places.to_numpy()] = True
    there |= names.is_in(kept.implode()).to_numpy() if len(kept) else False
    number = (np.cumsum(there) - 1).astype(np.int32)
    return pl.Series(number[places.to_numpy()]), names.filter(pl.Series(there))


def _listed(dropped: dict[str, int]) -> str:
    return "; ".join(f"{count:,} {what}" for what, count in dropped.items() if count)
