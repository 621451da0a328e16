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
    protocol_version = "HTTP/1.1"

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
        if what == "page":
            body = b"<html>moved</html>"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        if what == "changed" and self.headers.get("If-Range") not in (None, '"new"'):
            start = 0
        body = CONTENT[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header(
                "Content-Range", f"bytes {0 if what == 'wrong-part' else start}-{len(CONTENT) - 1}/{len(CONTENT)}"
            )
        self.send_header("ETag", '"new"')
        if what == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            sent = body if start else body[: len(body) // 2]
            self.wfile.write(f"{len(sent):x}\r\n".encode() + sent + b"\r\n" + (b"0\r\n\r\n" if start else b""))
            self.close_connection = True
            return
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
    path = _fetch.fetch([Remote("file.bin", urls, sha256)], folder, lambda *_: None, timeout=0.3)[0]
    assert [each.name for each in folder.iterdir()] == ["file.bin"], "no partial file is left"
    return path.read_bytes()


def part(folder: Path, url: str) -> Path:
    """Where a partial file from an address lies."""
    return folder / f"file.bin.{hashlib.sha256(url.encode()).hexdigest()[:8]}.part"


@pytest.mark.parametrize("what", ["fine", "truncate", "stall", "chunked"])
def test_a_file_comes_whole_whatever_happens_on_the_way(what: str, server: str, tmp_path: Path) -> None:
    assert get(tmp_path, f"{server}/{what}/file.bin") == CONTENT
    ranges = [range_ for _, range_ in Handler.seen]
    assert ranges[0] is None
    if what != "fine":
        assert ranges[1] is not None, "the second try goes on where the first one stopped"


def test_a_partial_file_is_resumed(server: str, tmp_path: Path) -> None:
    part(tmp_path, f"{server}/fine/file.bin").write_bytes(CONTENT[:70_000])
    assert get(tmp_path, f"{server}/fine/file.bin") == CONTENT
    assert Handler.seen == [("/fine/file.bin", "bytes=70000-")]


def test_a_server_without_ranges_sends_all_again(server: str, tmp_path: Path) -> None:
    part(tmp_path, f"{server}/no-range/file.bin").write_bytes(b"x" * 70_000)
    assert get(tmp_path, f"{server}/no-range/file.bin") == CONTENT


def test_a_partial_file_that_is_too_long_is_begun_again(server: str, tmp_path: Path) -> None:
    part(tmp_path, f"{server}/fine/file.bin").write_bytes(CONTENT + b"more")
    assert get(tmp_path, f"{server}/fine/file.bin") == CONTENT


def test_mirrors_are_tried_in_order(server: str, tmp_path: Path) -> None:
    assert get(tmp_path, f"{server}/404/file.bin", f"{server}/500/file.bin", f"{server}/fine/file.bin") == CONTENT
    tried = [path for path, _ in Handler.seen]
    assert tried == ["/404/file.bin", *["/500/file.bin"] * 3, "/fine/file.bin"], "only what may pass is tried again"


def test_what_is_there_is_not_fetched(server: str, tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(b"mine")
    assert get(tmp_path, f"{server}/fine/file.bin") == b"mine"
    assert not Handler.seen


def test_when_all_fail_the_line_says_what_to_do(server: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        get(
            tmp_path / "raw", f"{server}/404/file.bin", f"{server}/always-short/file.bin", "http://127.0.0.1:9/file.bin"
        )
    line = str(caught.value)
    for part in (
        "file.bin cannot be downloaded",
        "404",
        "ended after",
        "127.0.0.1:9",
        str(tmp_path / "raw"),
        "--raw-dir",
    ):
        assert part in line
    assert "\n" not in line
    assert not (tmp_path / "raw" / "file.bin").exists()


def test_checksums_are_checked(server: str, tmp_path: Path) -> None:
    assert get(tmp_path, f"{server}/fine/file.bin", sha256=hashlib.sha256(CONTENT).hexdigest()) == CONTENT
    with pytest.raises(UserError, match="SHA-256 is .*, expected 00ff"):
        get(tmp_path / "other", f"{server}/fine/file.bin", sha256="00ff")
    assert list((tmp_path / "other").iterdir()) == []


def test_another_version_of_the_file_is_not_spliced(server: str, tmp_path: Path) -> None:
    begun = part(tmp_path, f"{server}/changed/file.bin")
    begun.write_bytes(b"old" * 1000)
    begun.with_name(begun.name + ".tag").write_text('"old"')
    assert get(tmp_path, f"{server}/changed/file.bin") == CONTENT


def test_a_part_that_begins_elsewhere_is_refused(server: str, tmp_path: Path) -> None:
    part(tmp_path, f"{server}/wrong-part/file.bin").write_bytes(CONTENT[:70_000])
    assert get(tmp_path, f"{server}/wrong-part/file.bin", f"{server}/fine/file.bin") == CONTENT


def test_a_partial_file_of_one_mirror_is_not_continued_from_another(server: str, tmp_path: Path) -> None:
    part(tmp_path, f"{server}/404/file.bin").write_bytes(b"x" * 70_000)
    assert get(tmp_path, f"{server}/404/file.bin", f"{server}/fine/file.bin") == CONTENT


@pytest.mark.parametrize("what", ["page", "fine"])
def test_a_page_or_a_damaged_archive_is_no_gzip_file(what: str, server: str, tmp_path: Path) -> None:
    remote = Remote("log.json.gz", (f"{server}/{what}/log.json.gz",))
    with pytest.raises(UserError, match="sent something that is no gzip file"):
        _fetch.fetch([remote], tmp_path, lambda *_: None, timeout=0.3)
    assert not (tmp_path / "log.json.gz").exists()
