"""Times as people write them: whole numbers, numbers with a fraction, dates and times in ISO 8601.

The unit is a log's, decided when all of it was seen: its largest plain number says whether numbers are seconds,
milliseconds, microseconds or nanoseconds. Whole numbers stay exact. Dates are put in that unit. A log in seconds or
milliseconds that holds finer times is kept in microseconds. Until the unit is known, a column that is more than plain
whole numbers waits as `STAMP`.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, NamedTuple

import polars as pl

from ilrec_cli.errors import UserError

LARGEST = 2**63  # no number of a log is as large
MICRO = 1_000_000
# A whole number above this is no time in seconds (it would be after the year 5000), and so on upwards.
UNITS = ((10**17, 10**9), (10**14, 10**6), (10**11, 10**3))
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# A time in its own unit (a date's is the second): whole units, millionths of one, whether it is a date.
STAMP = pl.Struct({"whole": pl.Int64, "micro": pl.Int64, "date": pl.Boolean})


class Stamp(NamedTuple):
    whole: int
    micro: int
    date: bool


def one(text: str) -> Stamp | None:
    """The time that a text spells, None if it spells none."""
    text = text.strip()
    if not NUMBER.fullmatch(text):
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            return None
        since = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - EPOCH
        return Stamp(since.days * 86400 + since.seconds, since.microseconds, True)
    size = abs(float(text))
    if not size <= LARGEST:
        return None
    found = Decimal(text) if size > 1e-7 else Decimal(0)  # whose exponents can be beyond all bounds
    whole = int(found)
    micro = int(((found - whole) * MICRO).to_integral_value(ROUND_HALF_UP))
    whole, micro = whole + micro // MICRO, micro % MICRO
    return Stamp(whole, micro, False) if -LARGEST <= whole < LARGEST else None


def parsed(texts: pl.Series) -> pl.Series:
    """Whole numbers where all are, else stamps; null where a text spells no time."""
    whole = texts.cast(pl.Int64, strict=False)
    if not whole.null_count():
        return whole
    rest = whole.is_null().arg_true()
    found = _decimals(texts.gather(rest))
    odd = found["whole"].is_null().arg_true()
    read = [None if text is None else one(text) for text in texts.gather(rest.gather(odd))]
    for place, name in enumerate(found.columns):
        values = [None if stamp is None else stamp[place] for stamp in read]
        found = found.with_columns(found[name].scatter(odd, pl.Series(values, dtype=found[name].dtype)))
    every = _plain(whole)
    for name in found.columns:
        every = every.with_columns(every[name].scatter(rest, found[name]))
    return _column(every, texts.name)


def from_floats(numbers: pl.Series) -> pl.Series:
    """Times that are numbers with a fraction; null where one is no time."""
    sound = numbers.set(~(numbers.is_finite() & (numbers.abs() < LARGEST)).fill_null(False), None)
    whole = sound.floor()
    micro = ((sound - whole) * MICRO).round().cast(pl.Int64)
    return _column(_carried(whole.cast(pl.Int64), micro), numbers.name)


def from_dates(dates: pl.Series) -> pl.Series:
    """Times that are dates."""
    micro = dates.cast(pl.Datetime("us")).dt.epoch("us")
    table = _carried(micro * 0, micro)
    return _column(table.with_columns(date=table["whole"].is_not_null()), dates.name)


class Seen:
    """What decides the unit of a log: its plain numbers and its dates, part by part."""

    def __init__(self) -> None:
        self._numbers, self._dates = [0, 0], [0, 0]  # smallest, largest
        self._fractions, self._stamped = False, False
        self._finest = 1  # units a second that the dates need

    def add(self, times: pl.Series) -> None:
        """One part of the log."""
        if not times.dtype.is_nested():
            self._numbers = _spread(self._numbers, times)
            return
        self._stamped = True
        table = times.struct.unnest()
        numbers, dates = table.filter(~pl.col("date")), table.filter("date")
        self._numbers, self._dates = _spread(self._numbers, numbers["whole"]), _spread(self._dates, dates["whole"])
        self._fractions |= bool((numbers["micro"] != 0).any())
        if (dates["micro"] % 1000 != 0).any():
            self._finest = MICRO
        elif (dates["micro"] != 0).any():
            self._finest = max(self._finest, 1000)

    def clock(self) -> Clock:
        """The unit of the whole log; `UserError` where it cannot hold one of the times."""
        latest = self._numbers[1]
        unit = next((ticks for bound, ticks in UNITS if latest > bound), 1)
        fine = unit < MICRO and (self._fractions or self._finest > unit)
        clock = Clock(MICRO if fine else unit, MICRO // unit if fine else 1, max(latest, self._dates[1] * unit))
        for spread, factor, what in (
            (self._numbers, clock.scale, ""),
            (self._dates, clock.ticks, "seconds of a date "),
        ):
            for time in spread:
                if not -LARGEST <= time * factor < LARGEST - factor * self._stamped:
                    raise UserError(
                        f"the time {time} ({what}since 1970) is too far from the others: the log's largest number makes its "
                        f"unit 1/{clock.ticks} second, in which it does not fit. Mend or delete the line"
                    )
        return clock


class Clock(NamedTuple):
    """`ticks` of a log's times a second, `scale` of them in a unit of its numbers; `latest` of its times in the latter."""

    ticks: int
    scale: int = 1
    latest: int = 0

    def whole(self, table: pl.DataFrame) -> pl.DataFrame:
        """A part of the log with whole numbers of ticks as its column timestamp."""
        if not table["timestamp"].dtype.is_nested():
            return table.with_columns(pl.col("timestamp") * self.scale) if self.scale > 1 else table
        whole, micro, date = (pl.col("timestamp").struct.field(name) for name in ("whole", "micro", "date"))
        factor = pl.when(date).then(self.ticks).otherwise(self.scale)
        return table.with_columns(timestamp=whole * factor + (micro * factor + MICRO // 2) // MICRO)

    def at_or_after(self, stamp: Stamp) -> int:
        """The first tick that is not before a time."""
        factor = self.ticks if stamp.date else self.scale
        return -(-(stamp.whole * MICRO + stamp.micro) * factor // MICRO)


def stamps(times: pl.Series) -> pl.Series:
    """A column of times as stamps, to stand beside others in one table."""
    return times if times.dtype.is_nested() else _plain(times).to_struct(times.name)


def _decimals(texts: pl.Series) -> pl.DataFrame:
    """Stamps of texts such as -12.5, nulls for others."""
    parts = texts.str.extract_groups(r"^([+-]?)([0-9]{1,18})\.([0-9]*)$").struct.unnest()
    sign, head, tail = (parts[name] for name in parts.columns)
    digits = (tail + "0000000").str.slice(0, 7).cast(pl.Int64)
    factor = 1 - 2 * (sign == "-").cast(pl.Int64)
    return _carried(head.cast(pl.Int64) * factor, (digits + 5) // 10 * factor)


def _carried(whole: pl.Series, micro: pl.Series) -> pl.DataFrame:
    """Numbers with millionths from 0 to 999,999."""
    carry = micro // MICRO
    return _plain(whole + carry).with_columns(micro=micro - carry * MICRO)


def _plain(whole: pl.Series) -> pl.DataFrame:
    """The fields of plain whole numbers."""
    return pl.DataFrame({"whole": whole, "micro": whole * 0, "date": whole.is_null() & whole.is_not_null()})


def _column(table: pl.DataFrame, name: str) -> pl.Series:
    """Whole numbers where all are, else stamps; null as a whole where there is none."""
    if not table["date"].any() and not (table["micro"] != 0).any():
        return table["whole"].alias(name)
    return table.select(pl.when(pl.col("whole").is_not_null()).then(pl.struct(pl.all())).alias(name)).to_series()


def _spread(before: list[int], values: pl.Series) -> list[int]:
    low: Any = values.min()
    high: Any = values.max()
    return [min(before[0], int(low or 0)), max(before[1], int(high or 0))]
