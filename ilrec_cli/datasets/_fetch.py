"""Downloads of public data: ordered mirrors, resume of partial files, a bar, and one clear line when all fail."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ilrec_cli.datasets import _files
from ilrec_cli.errors import UserError

CHUNK = 1 << 20
ATTEMPTS = 3  # at one mirror, each going on where the last one stopped
TIMEOUT = 30.0  # seconds without a byte
AGENT = "ilrec (https://arxiv.org/abs/2602.17410)"
PASSING = (408, 429, 500, 502, 503, 504)  # answers after which the same request may succeed


class Remote(NamedTuple):
    """A file, the addresses it can be had from in order of preference, and its SHA-256 where the source publishes one."""

    name: str
    urls: tuple[str, ...]
    sha256: str | None = None


class TransferError(Exception):
    """A transfer that failed for now; what came is kept."""


class RefusedError(Exception):
    """A transfer that this mirror will not make good."""


Progress = Callable[[str, int, int | None], None]  # name, bytes there, bytes in all


def fetch(remotes: list[Remote], folder: Path, progress: Progress, *, timeout: float = TIMEOUT) -> list[Path]:
    """Files that are not there yet, each whole or absent (partial ones end in .part). `UserError` names what to do."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: the folder cannot be made ({error.strerror}). Choose another --raw-dir") from error
    return [_one(remote, folder, progress, timeout) for remote in remotes]


def _one(remote: Remote, folder: Path, progress: Progress, timeout: float) -> Path:
    path = folder / remote.name
    reasons: list[str] = []
    for url in () if path.is_file() else remote.urls:
        # A partial file belongs to one address: another mirror may hold another version.
        part = folder / f"{remote.name}.{hashlib.sha256(url.encode()).hexdigest()[:8]}.part"
        try:
            _patiently(url, part, remote, progress, timeout)
        except (TransferError, RefusedError) as error:
            reasons.append(f"{url}: {error}")
            continue
        os.replace(part, path)
        for leftover in folder.glob(f"{remote.name}.*.part*"):
            leftover.unlink()
        break
    if path.is_file():
        return path
    raise UserError(
        f"{remote.name} cannot be downloaded ({'; '.join(reasons)}). Get it elsewhere and put it into {folder}, or name "
        "the folder that holds it with --raw-dir; what came so far is kept, and a next try goes on from it"
    )


def _patiently(url: str, part: Path, remote: Remote, progress: Progress, timeout: float) -> None:
    """A whole and sound file in `part`, after a few tries."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _transfer(url, part, remote.name, progress, timeout)
            _check(remote, part)
            return
        except TransferError:
            if attempt == ATTEMPTS:
                raise
        except urllib.error.HTTPError as error:
            if error.code not in PASSING or attempt == ATTEMPTS:
                raise RefusedError(f"{error.code} {error.reason}") from error
        except (urllib.error.URLError, OSError, http.client.HTTPException, ValueError) as error:
            raise RefusedError(str(getattr(error, "reason", None) or error or type(error).__name__)) from error


def _transfer(url: str, part: Path, name: str, progress: Progress, timeout: float) -> None:
    """Append to `part` from where it ends; `TransferError` if the server stops early."""
    there = part.stat().st_size if part.exists() else 0
    tag = part.with_name(f"{part.name}.tag")
    request = urllib.request.Request(url, headers={"User-Agent": AGENT})
    if there:
        request.add_header("Range", f"bytes={there}-")
        if tag.exists():  # the rest only if the file is still the one that was begun
            request.add_header("If-Range", tag.read_text())
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            start = _start(answer)
            if start not in (0, there):
                raise TransferError(f"sent the bytes from {start:,} on, asked for {there:,}")
            total = (
                None if answer.headers.get("Content-Length") is None else int(answer.headers["Content-Length"]) + start
            )
            _remember(tag, answer)
            with part.open("ab" if start else "wb") as file:
                done = start
                for data in _chunks(answer):
                    file.write(data)
                    done += len(data)
                    progress(name, done, total)
    except urllib.error.HTTPError as error:
        if error.code == 416 and there:  # nothing left to send, or another file: begin again to be sure
            _remove(part)
            raise TransferError("the partial file did not fit") from error
        raise
    if total is not None and done < total:
        raise TransferError(f"ended after {done:,} of {total:,} bytes")


def _remove(part: Path) -> None:
    """Forget a partial file and what is known of it."""
    part.unlink(missing_ok=True)
    part.with_name(f"{part.name}.tag").unlink(missing_ok=True)


def _start(answer: Any) -> int:
    """The first byte that an answer holds."""
    if answer.status != 206:
        return 0
    found = re.match(r"bytes (\d+)-(\d+)", answer.headers.get("Content-Range") or "")
    length = answer.headers.get("Content-Length")
    if found is None or (length is not None and int(length) != int(found[2]) - int(found[1]) + 1):
        raise RefusedError("sent a part of the file without saying which")
    return int(found[1])


def _remember(tag: Path, answer: Any) -> None:
    """Keep what tells this version of the file from another."""
    known = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
    if known and not known.startswith("W/"):
        tag.write_text(known)
    else:
        tag.unlink(missing_ok=True)


def _chunks(answer: Any) -> Iterator[bytes]:
    try:
        while data := answer.read1(CHUNK):  # read would lose what came before a stall
            yield data
    except http.client.IncompleteRead as error:
        yield error.partial
        raise TransferError("ended early") from error
    except (TimeoutError, ConnectionError) as error:
        raise TransferError(f"stalled ({error or type(error).__name__})") from error


def _check(remote: Remote, part: Path) -> None:
    """Refuse what is not the file: a page in its place, a damaged archive, another checksum."""
    if remote.name.endswith(".gz"):
        reason = None if _files.compression(part) == "gzip" else "sent something that is no gzip file"
        try:
            with _files.open_bytes(part) as file:
                while reason is None and file.read(CHUNK):
                    pass
        except Exception as error:
            if not _files.unreadable(error):
                raise
            reason = f"sent a damaged gzip file ({error})"
        if reason:
            _remove(part)
            raise TransferError(reason)
    if remote.sha256 is not None:
        with part.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != remote.sha256:
            _remove(part)
            raise RefusedError(f"the file's SHA-256 is {found}, expected {remote.sha256}")
