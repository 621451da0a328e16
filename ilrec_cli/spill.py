"""Tables that may not fit in memory: kept there up to a limit, beyond it in files of a folder that goes away."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import polars as pl
import pyarrow as pa

from ilrec_cli import folders


class Spill:
    """Where parts of a log wait for their turn. Without a folder everything stays in memory.

    The folder is made beside `path` when it is first needed, and is gone when the block ends; a killed process leaves
    one that the next run removes, whether it needs one or not.
    """

    def __init__(self, path: Path | None = None, limit: int = 0):
        self.held = 0  # bytes in memory
        self.written = 0  # bytes in files, counted once
        self._path, self._limit = path, limit
        self._stack = ExitStack()
        self._folder: Path | None = None
        self._files = 0

    def __enter__(self) -> Spill:
        if self._path is not None:
            folders.remove_leftovers(self._path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def keep(self, table: pl.DataFrame) -> Kept:
        """The table in memory, or in a file where memory would hold more than the limit."""
        size = int(table.estimated_size())
        if self._path is None or self.held + size <= self._limit:
            return Kept(self, table, size)
        if self._folder is None:
            self._folder = self._stack.enter_context(folders.aside(self._path))
        self._files += 1
        self.written += size
        file = self._folder / f"{self._files}.arrow"
        found = table.to_arrow(compat_level=pl.CompatLevel.oldest())
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, found.schema) as writer:
            writer.write_table(found)
        return Kept(self, file, 0)


class Kept:
    """One table, read again with `load` as often as needed, until `drop`."""

    def __init__(self, spill: Spill, table: pl.DataFrame | Path, size: int):
        self._spill, self._table, self._size = spill, table, size
        spill.held += size

    def load(self, *columns: str) -> pl.DataFrame:
        """The table, or some of its columns."""
        if isinstance(self._table, pl.DataFrame):
            return self._table.select(columns) if columns else self._table
        with pa.OSFile(str(self._table)) as source:
            names = pa.ipc.open_file(source).schema.names
            wanted = [names.index(name) for name in columns] if columns else None
            options = pa.ipc.IpcReadOptions(included_fields=wanted)
            found = pl.DataFrame(pl.from_arrow(pa.ipc.open_file(source, options=options).read_all()))
        return found.select(columns) if columns else found

    def drop(self) -> None:
        """Forget the table and give its room back."""
        if isinstance(self._table, Path):
            self._table.unlink()
        self._spill.held -= self._size
        self._table, self._size = pl.DataFrame(), 0

    def take(self) -> pl.DataFrame:
        """The table, which is then dropped."""
        found = self.load()
        self.drop()
        return found
