"""Filters that look at one interaction alone: rating and date."""

from __future__ import annotations

from datetime import UTC, datetime

import polars as pl

from ilrec_cli.errors import UserError
from ilrec_cli.settings import Preprocess


class Sieve:
    """Drops interactions by rating and date, and counts them."""

    def __init__(self, config: Preprocess, ticks: int | None):
        self.dropped: dict[str, int] = {}
        self._tests: list[tuple[str, pl.Expr]] = []
        rating, time = pl.col("rating"), pl.col("timestamp")
        if config.min_rating is not None:
            self._add(f"a rating below {config.min_rating:g}, or none", rating >= config.min_rating, "with")
        if config.since is not None:
            self._add(config.since, time >= moment(config.since, "--since", ticks), "before")
        if config.until is not None:
            self._add(f"{config.until} on", time < moment(config.until, "--until", ticks), "from")

    def __call__(self, table: pl.DataFrame) -> pl.DataFrame:
        for what, test in self._tests:
            kept = table.filter(test)
            self.dropped[what] += len(table) - len(kept)
            table = kept
        return table

    def _add(self, what: str, test: pl.Expr, link: str) -> None:
        self._tests.append((f"interactions {link} {what}", test))
        self.dropped[self._tests[-1][0]] = 0


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
