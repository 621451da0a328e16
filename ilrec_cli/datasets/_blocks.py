"""A file as blocks of whole lines, decompressed in a thread of its own while the last block is parsed."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from ilrec_cli.datasets import _files
from ilrec_cli.errors import UserError

BLOCK_MB = 32
LONGEST_LINE = 1 << 30  # bytes; a longer one is no line of a log


class Block(NamedTuple):
    """`data` begins with line `first` (from 1) of the file and ends at the end of a line."""

    first: int
    data: bytes


def blocks(path: Path, size: int = BLOCK_MB << 20, *, quoted: bool = False) -> Iterator[Block]:
    """Blocks of about `size` bytes; memory holds at most four of them. `UserError` for a file that cannot be read.

    With `quoted`, a line ends only where its double quotes are closed.
    """
    ready: queue.Queue[bytes | BaseException | None] = queue.Queue(maxsize=2)
    stop = threading.Event()
    worker = threading.Thread(target=_produce, args=(path, size, quoted, ready, stop), daemon=True)
    worker.start()
    first = 1
    try:
        while (found := ready.get()) is not None:
            if isinstance(found, BaseException):
                if _files.unreadable(found):
                    _files.refuse_unreadable(path, found)
                raise found
            yield Block(first, found)
            first += found.count(b"\n")
    finally:
        stop.set()
        while worker.is_alive():  # it may wait for room in the queue
            _drain(ready)
            worker.join(timeout=0.05)


def _produce(
    path: Path, size: int, quoted: bool, ready: queue.Queue[bytes | BaseException | None], stop: threading.Event
) -> None:
    try:
        with _files.open_bytes(path) as file:
            for data in _whole_lines(path, file, size, quoted):
                ready.put(data)
                if stop.is_set():
                    return
        ready.put(None)
    except BaseException as error:  # the reader raises it again
        ready.put(error)


def _whole_lines(path: Path, file: IO[bytes], size: int, quoted: bool) -> Iterator[bytes]:
    rest, start = b"", True
    while data := file.read(size):
        if start:
            data, start = data.removeprefix(_files.BOM), False
        data = rest + data
        cut = _last_end(data, quoted)
        if cut:
            yield data[:cut]
        rest = data[cut:]
        if len(rest) > LONGEST_LINE:
            raise UserError(f"{path}: a line is longer than {LONGEST_LINE >> 20} MiB; this is no file of lines")
    if rest:
        yield rest


def _last_end(data: bytes, quoted: bool) -> int:
    """Where the last whole line of some data ends; 0 if there is none."""
    cut = data.rfind(b"\n") + 1
    if quoted and data.count(b'"', 0, cut) % 2:  # the last quote opens a value that goes on after the cut
        cut = data.rfind(b"\n", 0, data.rfind(b'"', 0, cut)) + 1
    return cut


def _drain(ready: queue.Queue[bytes | BaseException | None]) -> None:
    try:
        while True:
            ready.get_nowait()
    except queue.Empty:
        pass
