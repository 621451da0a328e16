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
    """Interactions with codes for ids, in the total order; what each filter dropped; counts at each pass of the core."""

    table: pl.DataFrame
    dropped: dict[str, int]
    passes: list[sequences.Counts]


class Numbered(NamedTuple):
    """Interactions by (user, time, row), users and items numbered by sorted id, and each user's number of interactions."""

    table: pl.DataFrame
    users: pl.DataFrame
    items: pl.DataFrame
    lengths: np.ndarray


def filtered(raw: Raw, config: Preprocess, settings: Settings, ticks: int) -> Filtered:
    """Rating, dates, repeats, k-core; `UserError` where nothing is left, with the counts at every pass."""
    table = raw.interactions.with_columns(pl.col("user", "item").to_physical())
    if table.is_empty():
        raise UserError("the raw files hold no interaction")
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
            table.filter(pl.col("timestamp") >= moment(config.since, "--since", ticks)),
        )
    if config.until is not None:
        table = drop(
            f"interactions from {config.until} on",
            table.filter(pl.col("timestamp") < moment(config.until, "--until", ticks)),
        )
    if settings["repeats"] == "first":
        table = drop("repeated interactions", sequences.drop_repeats(table))
    else:
        table = sequences.in_order(table)
    *_, (rows, _) = every = list(sequences.core_passes(table, settings["user_k"], settings["item_k"]))
    passes = [counted for _, counted in every]
    dropped["interactions outside the k-core"] = passes[0][2] - passes[-1][2]
    if not passes[-1][2]:
        listed = "; ".join(
            f"{users:,} users, {items:,} items, {count:,} interactions" for users, items, count in passes
        )
        core = f"user_k {settings['user_k']}, item_k {settings['item_k']}"
        raise UserError(
            f"nothing is left after the k-core ({core}). Pass by pass: {listed}. Lower --user-k or --item-k"
        )
    return Filtered(table if rows is None else table[rows], dropped, passes)


def moment(text: str, flag: str, ticks: int) -> int:
    """A date, or a time in the log's own unit, as the log's unit (`ticks` a second, UTC)."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise UserError(f"{flag} is '{text}', expected a date such as 2016-10-01 or a number") from error
    return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * ticks)


def limited(table: pl.DataFrame, names: pl.Series, config: Preprocess) -> pl.DataFrame:
    """Interactions of `limit_users` users, drawn by the seed from the users sorted by id."""
    if config.limit_users is None:
        return table
    users = _dictionary(names, table["user"])["code"]
    chosen = np.random.default_rng(config.seed).permutation(len(users))[: config.limit_users]
    return table.filter(pl.col("user").is_in(users.gather(chosen).implode()))


def numbered(table: pl.DataFrame, raw: Raw, dropped: dict[str, int]) -> Numbered:
    """Number users and items by sorted raw id, whatever the order of the input; items without interactions go.

    Items that are offered as candidates stay.
    """
    users = _dictionary(raw.interactions["user"], table["user"])
    items = _dictionary(raw.interactions["item"], table["item"])
    if raw.candidates is not None:
        offered = raw.candidates["items"].explode().unique()
        extra = offered.filter(~offered.is_in(items["raw_id"].implode()))
        items = pl.concat(
            [
                items,
                pl.DataFrame({"raw_id": extra}).with_columns(code=pl.lit(None, dtype=pl.UInt32)).select(items.columns),
            ]
        )
        items = items.sort("raw_id")
    table = table.with_columns(
        user=_renumbered(table["user"], users["code"]), item=_renumbered(table["item"], items["code"])
    )
    table = table.sort("user", maintain_order=True)  # time and row are in order already
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


def split(made: Numbered, config: Preprocess, settings: Settings, ticks: int) -> tuple[splits.Splits, dict[str, Any]]:
    """The splits, and how they were made, for the card."""
    rule = settings["split"]
    if rule == "leave-one-out":
        return splits.leave_one_out(made.lengths), {"rule": rule}
    if rule == "ratio":
        return splits.by_ratio(made.lengths, _three(config)), {"rule": rule, "ratio": list(config.split_ratio)}
    if rule == "given":
        return _given(made), {"rule": rule}
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


def _dictionary(names: pl.Series, codes: pl.Series) -> pl.DataFrame:
    """(code, raw_id) of the codes that occur, sorted by raw id."""
    every = names.unique()
    table = pl.DataFrame({"code": every.to_physical(), "raw_id": every.cast(pl.String)})
    return table.filter(pl.col("code").is_in(codes.unique().implode())).sort("raw_id")


def _renumbered(codes: pl.Series, ordered: pl.Series) -> pl.Series:
    """Codes as places in `ordered`."""
    there = ordered.is_not_null()
    place = np.zeros(int(ordered.max() or 0) + 1, dtype=np.int32)  # type: ignore[arg-type]
    place[ordered.filter(there).to_numpy()] = np.flatnonzero(there.to_numpy())
    return pl.Series(place[codes.to_numpy()])


def _listed(dropped: dict[str, int]) -> str:
    return "; ".join(f"{count:,} {what}" for what, count in dropped.items() if count)
