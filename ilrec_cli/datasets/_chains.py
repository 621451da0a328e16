"""Sequences from rows of (user, history, target): every target is put after the history it was given with."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from ilrec_cli.errors import UserError


def sequences(rows: pl.DataFrame, source: Path) -> pl.DataFrame:
    """Interactions (user, item, timestamp = place, rating, split) from rows with `history`, a list, and `split`.

    Histories may be cut to their most recent items: a row continues the sequence whose end is its history. The first
    items of a user, which are no target, have no split.
    """
    longest = int(rows["history"].list.len().max() or 0)  # type: ignore[arg-type]
    table: dict[str, list[str | int | None]] = {"user": [], "item": [], "timestamp": [], "split": []}
    for (user,), group in rows.group_by("user", maintain_order=True):
        items, splits = _chain(list(zip(group["history"], group["item"], group["split"], strict=True)), longest)
        if len(splits) - splits.count(None) != len(group):
            raise UserError(
                f"{source}: the rows of user '{user}' do not fit together: {len(group)} targets, but their histories "
                f"lead through {len(splits) - splits.count(None)}"
            )
        table["user"] += [str(user)] * len(items)
        table["item"] += items
        table["timestamp"] += range(len(items))
        table["split"] += splits
    return pl.DataFrame(table, schema_overrides={"timestamp": pl.Int64, "split": pl.String}).with_columns(
        rating=pl.lit(None, dtype=pl.Float32)
    )


def _chain(rows: list[tuple[pl.Series, str, str]], longest: int) -> tuple[list[str], list[str | None]]:
    """Items in order and each one's split, None for the items before the first target."""
    following: dict[tuple[str, ...], tuple[str, str]] = {}
    start: tuple[str, ...] | None = None
    for history, item, split in rows:
        key = tuple(history)
        following.setdefault(key, (item, split))
        start = key if start is None or len(key) < len(start) else start
    items = list(start or ())
    splits: list[str | None] = [None] * len(items)
    while (found := following.pop(tuple(items[-longest:]), None)) is not None:
        items.append(found[0])
        splits.append(found[1])
    return items, splits
