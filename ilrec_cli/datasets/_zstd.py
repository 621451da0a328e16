"""Reading zstandard files; one that ends inside a frame is an error, which the library's own stream lets pass."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import zstandard

CHUNK = 1 << 17


class Reader(io.RawIOBase):
    """The decompressed bytes of all frames of a file."""

    def __init__(self, path: Path):
        self._file = path.open("rb")
        self._frame: Any = None
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            data = self._file.read(CHUNK)
            if not data:
                if self._frame is not None:
                    raise EOFError("compressed file ended before the end of its last frame")
                return 0
            self._ready = self._decompress(data)
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size

    def close(self) -> None:
        self._file.close()
        super().close()

    def _decompress(self, data: bytes) -> bytes:
        made = b""
        while data:
            if self._frame is None:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            made += self._frame.decompress(data)
            data = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame = None
        return made
