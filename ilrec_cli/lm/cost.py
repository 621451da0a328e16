"""What a phase of training takes: time, tokens through the model, generated responses. Counted on every process.

Kept with every checkpoint, so that a run that was stopped counts what led to its weights, once.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

TIMES = ("seconds", "making_seconds", "validation_seconds")
COUNTS = ("prompt_tokens", "response_tokens", "making_tokens", "generated")


class Cost:
    """Amounts of this process since they were last settled; `seconds` is all of the phase's time.

    `prompt_tokens` and `response_tokens` are those of the forward passes of training, without padding (and no backward
    or recomputed pass); `making_tokens` those of passes that make the phase's data (generating, scoring; a search counts
    as if every beam went on to the end of the longest identifier), whose time is `making_seconds`; `generated` are
    responses that the model wrote. Validation is not counted but for its time.
    """

    def __init__(self) -> None:
        self.since: Counter[str] = Counter()

    def add(self, **amounts: float) -> None:
        if unknown := amounts.keys() - {*TIMES, *COUNTS}:
            raise ValueError(f"cost has no {min(unknown)}")
        self.since.update(amounts)

    @contextmanager
    def timed(self, *names: str) -> Iterator[None]:
        """The block's time goes to these."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(**dict.fromkeys(names, time.perf_counter() - start))

    def settle(self, row: dict[str, Any], gather: Callable[[dict[str, float]], list[dict[str, float]]]) -> None:
        """Add what all processes counted to the phase's row: counts are summed, times are the first process's."""
        parts = gather(dict(self.since))
        self.since.clear()
        for name in COUNTS:
            row[name] = row.get(name, 0) + sum(int(part.get(name, 0)) for part in parts)
        for name in TIMES:
            row[name] = row.get(name, 0.0) + parts[0].get(name, 0.0)


def total(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Sums over phases."""
    return {name: sum(row.get(name, 0) for row in rows) for name in ("epochs", "steps", *TIMES, *COUNTS)}
