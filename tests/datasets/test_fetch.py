"""Downloads against a local server that fails, stalls, truncates and resumes."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ilrec_cli.datasets import _fetch
from ilrec_cli.datasets._fetch import Remote
from ilrec_cli.errors import UserError

CONTENT = bytes(range(256)) * 4000


class Handler(BaseHTTPRequestHandler):
    """The first word of the path says what goes wrong; requests are noted as (path, Range)."""

    seen: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        range_ = self.headers.get("Range")
        self.seen.append((self.path, range_))
        what = self.path.split("/")[1]
        if what.isdigit():
            self.send_error(int(what))
            return
        start = int(range_.removeprefix("bytes=").rstrip("-")) if range_ and what != "no-range" else 0
        if start > len(CONTENT):
            self.send_error(416)
            return
        body = CONTENT[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if what == "truncate" and start == 0:
            body = body[: len(body) // 3]
        if what == "always-short":
            body = body[:1000]
        if what == "stall" and start == 0:
            self.wfile.write(body[:5000])
            self.wfile.flush()
            time.sleep(1.0)
            return
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Handler.seen = []
    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.daemon_threads = True
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_address[1]}"
    running.shutdown()


def get(folder: Path, *urls: str, sha256: str | None = None) -> bytes:
    path = _fetch.fetch([Remote("file.gz", urls, sha256)], folder, lambda *_: None, timeout=0.3)[0]
    assert not (folder / "file.gz.part").exists()
    return path.read_bytes()


@pytest.mark.parametrize("what", ["fine", "truncate", "stall"])
def test_a_file_comes_whole_whatever_happens_on_the_way(what: str, server: str, tmp_path: Path) -> None:
    assert get(tmp_path, f"{server}/{what}/file.gz") == CONTENT
    ranges = [range_ for _, range_ in Handler.seen]
    assert ranges[0] is None
    if what != "fine":
        assert ranges[1] is not None, "the second try goes on where the first one stopped"


def test_a_partial_file_is_resumed(server: str, tmp_path: Path) -> None:
    (tmp_path / "file.gz.part").write_bytes(CONTENT[:70_000])
    assert get(tmp_path, f"{server}/fine/file.gz") == CONTENT
    assert Handler.seen == [("/fine/file.gz", "bytes=70000-")]


def test_a_server_without_ranges_sends_all_again(server: str, tmp_path: Path) -> None:
    (tmp_path / "file.gz.part").write_bytes(b"x" * 70_000)
    assert get(tmp_path, f"{server}/no-range/file.gz") == CONTENT


def test_a_partial_file_that_is_too_long_is_begun_again(server: str, tmp_path: Path) -> None:
    (tmp_path / "file.gz.part").write_bytes(CONTENT + b"more")
    assert get(tmp_path, f"{server}/fine/file.gz") == CONTENT


def test_mirrors_are_tried_in_order(server: str, tmp_path: Path) -> None:
    assert get(tmp_path, f"{server}/404/file.gz", f"{server}/500/file.gz", f"{server}/fine/file.gz") == CONTENT
    tried = [path for path, _ in Handler.seen]
    assert tried == ["/404/file.gz", *["/500/file.gz"] * 3, "/fine/file.gz"], "only what may pass is tried again"


def test_what_is_there_is_not_fetched(server: str, tmp_path: Path) -> None:
    (tmp_path / "file.gz").write_bytes(b"mine")
    assert get(tmp_path, f"{server}/fine/file.gz") == b"mine"
    assert not Handler.seen


def test_when_all_fail_the_line_says_what_to_do(server: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        get(tmp_path / "raw", f"{server}/404/file.gz", f"{server}/always-short/file.gz", "http://127.0.0.1:9/file.gz")
    line = str(caught.value)
    for part in (
        "file.gz cannot be downloaded",
        "404",
        "ended after",
        "127.0.0.1:9",
        str(tmp_path / "raw"),
        "--raw-dir",
    ):
        assert part in line
    assert "\n" not in line
    assert not (tmp_path / "raw" / "file.gz").exists()


def test_checksums_are_checked(server: str, tmp_path: Path) -> None:
    assert get(tmp_path, f"{server}/fine/file.gz", sha256=hashlib.sha256(CONTENT).hexdigest()) == CONTENT
    with pytest.raises(UserError, match="SHA-256 is .*, expected 00ff"):
        get(tmp_path / "other", f"{server}/fine/file.gz", sha256="00ff")
    assert list((tmp_path / "other").iterdir()) == []
