"""Filters that look at one interaction alone: rating and date."""

from __future__ import annotations

import re
from datetime import datetime

import polars as pl

from ilrec_cli.datasets import _times
from ilrec_cli.datasets._times import Clock
from ilrec_cli.errors import UserError
from ilrec_cli.settings import Preprocess

LONG_AGO = 10**8  # no log in seconds ends before: its numbers are no times but places


class Sieve:
    """Drops interactions by rating and date, and counts them."""

    def __init__(self, config: Preprocess, clock: Clock | None):
        self.dropped: dict[str, int] = {}
        self._tests: list[tuple[str, pl.Expr]] = []
        rating, time = pl.col("rating"), pl.col("timestamp")
        if config.min_rating is not None:
            self._add(f"a rating below {config.min_rating:g}, or none", rating >= config.min_rating, "with")
        if config.since is not None:
            self._add(config.since, time >= moment(config.since, "--since", clock), "before")
        if config.until is not None:
            self._add(f"{config.until} on", time < moment(config.until, "--until", clock), "from")

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
                moment(text, flag, Clock(1))


def moment(text: str, flag: str, clock: Clock | None) -> int:
    """A date (UTC), or a number in the unit of the log's own numbers, as the first tick that is not before it."""
    if clock is None:
        raise UserError(f"{flag}: these data have no times, only the order of each user's interactions")
    stamp = _times.one(text)
    if stamp is None:
        raise UserError(f"{flag} is '{text}', expected a date such as 2016-10-01 or a number")
    if not stamp.date and clock.latest > LONG_AGO and (date := _date(text)):
        raise UserError(f"{flag} is '{text}', which is a number in the log's unit; for the date write {date}")
    return clock.at_or_after(stamp)


def _date(text: str) -> str | None:
    """What a number such as 2016 or 20160101 looks like, None if it looks like no date."""
    if not re.fullmatch(r"(19|20)[0-9]{2}([0-9]{4})?", text):
        return None
    try:
        return datetime.strptime(f"{text}0101"[:8], "%Y%m%d").date().isoformat()
    except ValueError:
        return None
