"""What people read: short lines and tables on standard output, progress bars on standard error; main process only."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Console:
    """Where a stage speaks. `quiet` leaves only errors (and the line of --json); `verbose` adds details."""

    quiet: bool = False
    verbose: bool = False

    @classmethod
    def of(cls, config: Any) -> Console:
        """The console of a command's configuration; silent on every process but the first."""
        return cls(quiet=config.quiet or int(os.environ.get("RANK", "0")) > 0, verbose=config.verbose)

    def say(self, text: str = "") -> None:
        if not self.quiet:
            print(text, flush=True)

    def detail(self, text: str) -> None:
        if self.verbose:
            self.say(text)

    def warn(self, text: str) -> None:
        """Something the user should act on, though the work goes on."""
        print(f"warning: {text}", file=sys.stderr, flush=True)

    def table(self, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        self.say(format_table(header, rows))

    def progress(self, items: Iterable[T], what: str, *, total: int | None = None) -> Iterator[T]:
        """The items, under a progress bar where somebody watches."""
        from tqdm import tqdm

        hidden = True if self.quiet else None  # None: hidden where standard error is no terminal
        yield from tqdm(items, desc=what, total=total, disable=hidden, leave=False, dynamic_ncols=True)

    @contextmanager
    def bar(self, total: int, what: str) -> Iterator[Callable[[int], object]]:
        """A function that moves a bar on by so many, where somebody watches."""
        from tqdm import tqdm

        hidden = True if self.quiet else None
        with tqdm(total=total, desc=what, unit=" users", disable=hidden, leave=False, dynamic_ncols=True) as bar:
            yield bar.update

    @contextmanager
    def bytes_bar(self) -> Iterator[Callable[[str, int, int | None], None]]:
        """A function (name, bytes there, bytes in all) that moves a bar where somebody watches."""
        from tqdm import tqdm

        with tqdm(
            unit="B", unit_scale=True, disable=True if self.quiet else None, leave=False, dynamic_ncols=True
        ) as bar:

            def move(name: str, done: int, total: int | None) -> None:
                bar.set_description(name, refresh=False)
                bar.total = total
                bar.update(done - bar.n)

            yield move


def format_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Plain aligned columns: text to the left, numbers to the right, floats with four decimals."""
    cells = [[_cell(value) for value in row] for row in rows]
    numeric = [all(cell.strip("-").replace(",", "").replace(".", "").isdigit() or cell in ("", "-") for cell in column)
               for column in zip(*cells, strict=True)]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    numeric = numeric or [False] * len(widths)

    def line(row: Sequence[str]) -> str:
        parts = [cell.rjust(w) if right else cell.ljust(w) for cell, w, right in zip(row, widths, numeric, strict=True)]
        return "  ".join(parts).rstrip()

    return "\n".join([line(header), line(["-" * width for width in widths]), *map(line, cells)])


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
