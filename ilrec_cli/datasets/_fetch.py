"""Downloads of public data: ordered mirrors, resume of partial files, a bar, and one clear line when all fail."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ilrec_cli.errors import UserError

CHUNK = 1 << 20
ATTEMPTS = 3  # at one mirror, each going on where the last one stopped
TIMEOUT = 30.0  # seconds without a byte
AGENT = "ilrec (https://arxiv.org/abs/2602.17410)"


class Remote(NamedTuple):
    """A file, the addresses it can be had from in order of preference, and its SHA-256 where the source publishes one."""

    name: str
    urls: tuple[str, ...]
    sha256: str | None = None


class TransferError(Exception):
    """A transfer that ended early; what came is kept."""


Progress = Callable[[str, int, int | None], None]  # name, bytes there, bytes in all


def fetch(remotes: list[Remote], folder: Path, progress: Progress, *, timeout: float = TIMEOUT) -> list[Path]:
    """Files that are not there yet, each whole or absent (partial ones end in .part). `UserError` names what to do."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: the folder cannot be made ({error.strerror}). Choose another --raw-dir") from error
    return [_one(remote, folder, progress, timeout) for remote in remotes]


def _one(remote: Remote, folder: Path, progress: Progress, timeout: float) -> Path:
    path, part = folder / remote.name, folder / f"{remote.name}.part"
    if path.is_file():
        return path
    reasons: list[str] = []
    for url in remote.urls:
        for _ in range(ATTEMPTS):
            try:
                _transfer(url, part, remote.name, progress, timeout)
            except TransferError as error:
                reasons.append(f"{url}: {error}")
                continue
            except urllib.error.HTTPError as error:
                reasons.append(f"{url}: {error.code} {error.reason}")
                if error.code in (408, 429) or error.code >= 500:
                    continue
            except (urllib.error.URLError, OSError, http.client.HTTPException, ValueError) as error:
                reasons.append(f"{url}: {getattr(error, 'reason', None) or error or type(error).__name__}")
            else:
                _check(remote, part, url)
                os.replace(part, path)
                return path
            break
    listed = "; ".join(dict.fromkeys(reasons))
    raise UserError(
        f"{remote.name} cannot be downloaded ({listed}). Get it elsewhere and put it into {folder}, "
        "or name the folder that holds it with --raw-dir; what came so far is kept and a next try goes on from it"
    )


def _transfer(url: str, part: Path, name: str, progress: Progress, timeout: float) -> None:
    """Append to `part` from where it ends; `TransferError` if the server stops early."""
    there = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": AGENT})
    if there:
        request.add_header("Range", f"bytes={there}-")
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            total = _total(answer, there)
            resumed = answer.status == 206
            with part.open("ab" if resumed else "wb") as file:
                done = there if resumed else 0
                for data in _chunks(answer):
                    file.write(data)
                    done += len(data)
                    progress(name, done, total)
    except urllib.error.HTTPError as error:
        if error.code == 416 and there:  # nothing left to send, or another file: begin again to be sure
            part.unlink()
            raise TransferError("the partial file did not fit; beginning again") from error
        raise
    if total is not None and done < total:
        raise TransferError(f"ended after {done:,} of {total:,} bytes")


def _chunks(answer: Any) -> Iterator[bytes]:
    try:
        while data := answer.read1(CHUNK):  # read would lose what came before a stall
            yield data
    except http.client.IncompleteRead as error:
        yield error.partial
    except (TimeoutError, ConnectionError) as error:
        raise TransferError(f"stalled ({error or type(error).__name__})") from error


def _total(answer: Any, there: int) -> int | None:
    """Bytes of the whole file, where the server says so."""
    length = answer.headers.get("Content-Length")
    if length is None:
        return None
    return int(length) + (there if answer.status == 206 else 0)


def _check(remote: Remote, part: Path, url: str) -> None:
    if remote.sha256 is None:
        return
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != remote.sha256:
        part.unlink()
        raise UserError(
            f"{url}: the file's SHA-256 is {found}, expected {remote.sha256}; it was removed. Try again, or another source"
        )
