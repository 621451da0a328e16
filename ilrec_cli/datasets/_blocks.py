"""A file as blocks of whole lines, decompressed in a thread of its own while the last block is parsed."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from ilrec_cli.datasets import _files
from ilrec_cli.errors import UserError

BLOCK_MB = 8  # fits what the allocator keeps; larger ones are slower
NEWLINE = 10
PIECE = 1 << 20  # bytes of one read
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
            first += _count_lines(found)
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
    pieces: list[bytes] = []
    there, quotes, start = 0, 0, True
    while data := file.read(min(PIECE, size)):  # small reads: large ones move what they have again and again
        if start:
            data, start = data.removeprefix(_files.BOM), False
        cut = _last_end(data, quotes if quoted else None) if there + len(data) >= size else 0
        if cut:
            yield b"".join([*pieces, data[:cut]])
            pieces, there, quotes, data = [], 0, 0, data[cut:]
        elif there > LONGEST_LINE:
            raise UserError(f"{path}: a line is longer than {LONGEST_LINE >> 20} MiB; this is no file of lines")
        pieces.append(data)
        there += len(data)
        quotes += data.count(b'"') if quoted else 0
    if there:
        yield b"".join(pieces)


def _last_end(data: bytes, quotes: int | None) -> int:
    """Where the last whole line of a piece ends, after so many quotes before it; 0 if none ends in it."""
    cut = data.rfind(b"\n") + 1
    if quotes is None or (quotes + data.count(b'"', 0, cut)) % 2 == 0:
        return cut
    # The last quote opens a value that goes on after the cut: look before it.
    cut = data.rfind(b"\n", 0, max(data.rfind(b'"', 0, cut), 0)) + 1
    return cut if (quotes + data.count(b'"', 0, cut)) % 2 == 0 else 0


def _count_lines(data: bytes) -> int:
    return int(np.count_nonzero(np.frombuffer(data, dtype=np.uint8) == NEWLINE))


def _drain(ready: queue.Queue[bytes | BaseException | None]) -> None:
    try:
        while True:
            ready.get_nowait()
    except queue.Empty:
        pass
