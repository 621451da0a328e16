"""The rule of the split that was asked for, applied to one block of users after another."""

from __future__ import annotations

from typing import Any

import polars as pl

from ilrec_cli import splits
from ilrec_cli.datasets._times import Clock
from ilrec_cli.errors import UserError
from ilrec_cli.settings import Preprocess
from ilrec_cli.stages._dataset import Block, Numbered, Settings
from ilrec_cli.stages._sieve import moment


class Splitter:
    """The rule of the split, applied to one block of users after another."""

    def __init__(self, made: Numbered, config: Preprocess, settings: Settings, clock: Clock | None, *, published: bool):
        self.rule: dict[str, Any] = {"rule": settings["split"]}
        self._bounds: tuple[int, int] = (0, 0)
        self._names = made.users["raw_id"]
        if settings["split"] == "given" and not published:
            raise UserError("--split given: this source has no split of its own; choose leave-one-out, ratio or time")
        if settings["split"] == "ratio":
            self.rule["ratio"] = list(config.split_ratio)
        self._ratio: tuple[float, float, float] = config.split_ratio  # type: ignore[assignment]
        if settings["split"] == "time":
            self._bounds = _bounds(made, config, clock, self._ratio)
            self.rule |= dict(zip(("valid_from", "test_from"), self._bounds, strict=True))

    def __call__(self, block: Block) -> splits.Splits:
        """Splits of a block; users are numbered from 0."""
        rule = self.rule["rule"]
        if rule == "leave-one-out":
            return splits.leave_one_out(block.lengths)
        if rule == "ratio":
            return splits.by_ratio(block.lengths, self._ratio)
        if rule == "given":
            return _given(block, self._names)
        return splits.by_time(block.lengths, block.table["timestamp"].to_numpy(), *self._bounds)


def _bounds(
    made: Numbered, config: Preprocess, clock: Clock | None, ratio: tuple[float, float, float]
) -> tuple[int, int]:
    """The times at which validation and test begin."""
    if clock is None:
        raise UserError("--split time: these data have no times, only the order of each user's interactions")
    if not config.split_at:
        return splits.times_by_ratio(made.times, ratio)
    valid_from, test_from = (moment(text, "--split-at", clock) for text in config.split_at)
    if valid_from > test_from:
        raise UserError(
            f"--split-at is {','.join(config.split_at)}, expected the start of validation before that of test"
        )
    return valid_from, test_from


def _given(block: Block, names: pl.Series) -> splits.Splits:
    numbers = dict(zip(splits.NAMES, range(3), strict=True))
    label = block.table["split"].replace_strict(numbers, default=-1, return_dtype=pl.Int64)
    try:
        return splits.given(block.lengths, label.fill_null(-1).to_numpy())
    except splits.OrderError as error:
        raise UserError(
            f"the published split cannot be kept: user '{names[block.first + error.user]}' has a training target after one "
            "that is held out. Choose another with --split"
        ) from error
