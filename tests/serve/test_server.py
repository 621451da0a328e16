"""The server over loopback: the recommender's lists, many clients at once, and hostile requests."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import Finished
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import Client, exchange, serving

from ilrec_cli import Recommender

LIMITS = {"max_body_kb": 64, "max_histories": 4, "max_items": 50, "max_id_length": 20, "max_k": 30}


@pytest.fixture(scope="module")
def model(trained: Path) -> Recommender:
    return Recommender.load(trained / "toy" / "runs" / "ilrec")


@pytest.fixture(scope="module")
def port(model: Recommender) -> Iterator[int]:
    with serving(model, **LIMITS) as number:
        yield number


@pytest.fixture(scope="module")
def usual(model: Recommender, port: int) -> Callable[[], Any]:
    """A fixed request and the card: what they bring when all is well."""

    def ask() -> Any:
        client = Client(port)
        reply = client.ask(histories=[model.history(0)[:2]], k=3)
        assert reply.status == 200, reply
        return reply.data, client.send("GET", "/card").data

    return ask


def storm(model: Recommender, port: int, requests: int, concurrency: int = 32) -> None:
    """Every answer is the recommender's own, up to scores that differ by less than 1e-5."""
    cases = [(model.history(n % 60)[: 1 + n % 9], 1 + n % 7) for n in range(60)]
    expected = [model.recommend([history], k)[0] for history, k in cases]
    local = threading.local()

    def one(number: int) -> None:
        if not hasattr(local, "client"):
            local.client = Client(port)
        history, k = cases[number % 60]
        reply = local.client.ask(histories=[history], k=k)
        assert reply.status == 200, reply
        (result,) = reply.data["results"]
        found, own = result["recommendations"], expected[number % 60]
        assert [row["score"] for row in found] == pytest.approx([each.score for each in own], abs=1e-4)
        if [row["item"] for row in found] != [each.item for each in own]:
            scores = {each.item: each.score for each in own}
            lowest = min(scores.values())
            for row, each in zip(found, own, strict=True):
                assert row["item"] == each.item or abs(scores.get(row["item"], lowest) - each.score) < 1e-5

    with ThreadPoolExecutor(concurrency) as pool:
        list(pool.map(one, range(requests)))


def test_many_clients_get_the_lists_of_the_recommender(model: Recommender, port: int) -> None:
    storm(model, port, 300)


@pytest.mark.soak
def test_ten_thousand_requests(model: Recommender) -> None:
    with serving(model) as port:
        storm(model, port, 10_000)
        assert Client(port).send("GET", "/health").data["answered"] == 10_000


def test_an_answer_does_not_wait_for_the_network(port: int) -> None:
    """Head and body of an answer are sent at once: the other way costs 40 ms each time."""
    client, seconds = Client(port), []
    for _ in range(15):
        started = time.perf_counter()
        client.send("GET", "/card")
        seconds.append(time.perf_counter() - started)
    assert sorted(seconds)[7] < 0.03


def test_a_request_of_several_histories(model: Recommender, port: int) -> None:
    histories = [model.history(0)[:3], [], ["nobody knows", *model.history(1)[:2]]]
    body = {"histories": histories, "k": 4, "unknown": "skip", "deny": model.raw_ids[:5], "hide_seen": False}
    reply = Client(port).ask(**body)
    assert reply.status == 200, reply
    expected = model.recommend(histories, 4, unknown="skip", deny=model.raw_ids[:5], hide_seen=False)
    for result, own in zip(reply.data["results"], expected, strict=True):
        rows = result["recommendations"]
        assert sorted(row["item"] for row in rows) == sorted(each.item for each in own)
        assert [row["score"] for row in rows] == pytest.approx([each.score for each in own], abs=1e-4)
        assert all(row["title"] == model.titles[model.numbers[row["item"]]] for row in rows)
    assert [result["unknown_ids"] for result in reply.data["results"]] == [0, 0, 1]
    allowed = Client(port).ask(histories=histories[:1], allow=model.raw_ids[7:9], hide_seen=False).data
    assert {row["item"] for row in allowed["results"][0]["recommendations"]} == set(model.raw_ids[7:9])


def test_health_and_card(model: Recommender, port: int, trained: Path) -> None:
    client = Client(port)
    assert client.send("GET", "/health").data["status"] == "ok"
    card = client.send("GET", "/card").data
    assert (card["run"], card["made_by"], card["dataset"]) == ("ilrec", "ilrec", "toy")
    assert card["search"] == {"beams": 20, "normalize": "vocab", "dtype": "float32"}
    assert card["limits"]["histories"] == 4
    assert str(trained) not in json.dumps(card)
    assert "/recommend" in client.send("GET", "/openapi.json").data["paths"]


@pytest.mark.parametrize("name", ["histories", "allow", "deny"])
def test_a_request_full_of_faults_is_refused_at_the_first(name: str, model: Recommender) -> None:
    """To describe half a million of them took seconds, in which nobody else was answered."""
    wrong: Any = [1] * 400_000
    body = {"histories": [["A"]], name: [wrong] if name == "histories" else wrong}
    with serving(model) as port:
        reply = Client(port).send("POST", "/recommend", json.dumps(body, separators=(",", ":")).encode())
    assert reply.status == 422
    assert "more)" not in reply.data["error"]
    assert "0: Input should be a valid string" in reply.data["error"]


ASK = {"histories": [["A"]], "k": 3}
HOSTILE: dict[str, tuple[Any, int]] = {
    "nothing": (b"", 400), "no JSON": (b"{", 400), "a list": (b"[]", 422), "null": (b"null", 422), "NaN": (b'{"histories": NaN}', 422),
    "deep": (b'{"histories":' + b"[" * 30_000, 400), "not UTF-8": (b'{"histories": [["\xff"]]}', 400),
    "lone surrogate": (b'{"histories": [["\\ud800"]]}', 400), "bare number": (b"1e999999", 422), "BOM": (b"\xef\xbb\xbf{}", 400),
    "no histories": ({}, 422), "empty histories": ({"histories": []}, 422), "empty history": ({"histories": [[]]}, 422),
    "history of numbers": ({"histories": [[1]]}, 422), "history of lists": ({"histories": [[[]]]}, 422),
    "null id": ({"histories": [[None]]}, 422), "flat": ({"histories": ["A"]}, 422), "unknown id": (ASK, 422),
    "NUL": ({"histories": [["\0"]]}, 422), "path": ({"histories": [["../../etc/passwd"]]}, 422),
    "SQL": ({"histories": [["' OR 1=1 --"]]}, 422), "long id": ({"histories": [["A" * 21]]}, 422),
    "many histories": ({"histories": [["A"]] * 5}, 422), "long history": ({"histories": [["A"] * 51]}, 422),
    "k 0": (ASK | {"k": 0}, 422), "k negative": (ASK | {"k": -1}, 422), "k large": (ASK | {"k": 31}, 422),
    "k huge": (ASK | {"k": 10**400}, 422), "k as long as numbers may be": (ASK | {"k": 10**4299}, 422),
    "k longer": (b'{"histories": [["A"]], "k": 1' + b"0" * 5000 + b"}", 400), "lines in a name": (ASK | {"a\nb": 1}, 422), "k text": (ASK | {"k": "3"}, 422), "k true": (ASK | {"k": True}, 422),
    "k float": (ASK | {"k": 3.5}, 422), "k null": (ASK | {"k": None}, 422), "a field more": (ASK | {"beams": 10**9}, 422),
    "policy": (ASK | {"unknown": "ignore"}, 422), "hide_seen text": (ASK | {"hide_seen": "yes"}, 422),
    "deny unknown": ({"histories": [["A"]], "deny": ["B"]}, 422), "long deny": (ASK | {"deny": ["B"] * 51}, 422),
    "allow long id": (ASK | {"allow": ["B" * 21]}, 422), "too large": (b" " * 70_000, 413),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bodies_are_refused_and_nothing_else_changes(name: str, port: int, usual: Callable[[], Any]) -> None:
    body, status = HOSTILE[name]
    before = usual()
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = Client(port).send("POST", "/recommend", sent)
    assert reply.status == status, reply
    refused(reply.data)
    assert usual() == before


def refused(data: Any) -> None:
    assert list(data) == ["error"]
    assert 0 < len(data["error"]) < 600
    assert "\n" not in data["error"]
    assert "Traceback" not in data["error"]


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/recommend", {}, 405), ("PUT", "/recommend", {}, 405), ("TRACE", "/recommend", {}, 405),
        ("GET", "/", {}, 404), ("GET", "/../../etc/passwd", {}, 404), ("GET", "/card/%00", {}, 404), ("POST", "/health", {}, 405),
        ("GET", "/docs", {}, 404), ("POST", "/recommend/", {}, 404), ("GET", "/health/", {}, 404),("POST", "/recommend", {"Content-Type": "text/plain"}, 415),
        ("POST", "/recommend", {"Content-Type": "multipart/form-data"}, 415),
        ("POST", "/recommend", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
    ],
)  # fmt: skip
def test_other_methods_paths_and_types(
    method: str, path: str, headers: dict[str, str], status: int, port: int
) -> None:  # fmt: skip
    reply = Client(port).send(method, path, b"{}" if method == "POST" else None, headers)
    assert reply.status == status
    refused(reply.data)


HEAD = b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
RAW = {
    "garbage": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "no number": HEAD + b"Content-Length: many\r\n\r\n",
    "negative": HEAD + b"Content-Length: -5\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 5\r\nContent-Length: 50\r\n\r\n12345",
    "claims to be huge": HEAD + b"Content-Length: 99999999999999\r\n\r\n",
    "huge in chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"4000\r\n" + b"x" * 0x4000 + b"\r\n",
    "bad chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "endless header": b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 40_000,
    "no host": b"GET /health HTTP/1.1\r\n\r\n",
}
RAW["huge in chunks"] += b"4000\r\n" + b"x" * 0x4000 + b"\r\n" + 4 * (b"4000\r\n" + b"x" * 0x4000 + b"\r\n")


@pytest.mark.parametrize("name", RAW)
def test_hostile_bytes(name: str, port: int, usual: Callable[[], Any]) -> None:
    before = usual()
    found = exchange(port, RAW[name])
    assert found.startswith(b"HTTP/1.1 4"), found[:200]
    assert b"Traceback" not in found
    assert usual() == before


def test_a_slow_body_and_a_client_that_leaves(model: Recommender) -> None:
    with serving(model, timeout=0.3) as port:
        started = time.monotonic()
        found = exchange(port, HEAD + b"Content-Length: 50\r\n\r\n{")
        assert found.startswith(b"HTTP/1.1 408")
        assert time.monotonic() - started < 3
        exchange(port, HEAD + b"Content-Length: 50\r\n\r\n{", seconds=0.05)
        assert Client(port).ask(histories=[model.history(0)[:2]], k=1).status == 200


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("B0001SHOP"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = ("histories", "k", "allow", "deny", "hide_seen", "unknown", "x")
bodies = st.binary(max_size=60) | st.fixed_dictionaries({}, optional=dict.fromkeys(NAMES, values)).map(
    lambda body: json.dumps(body).encode()
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=bodies)
def test_any_body_is_answered_or_refused(body: bytes, port: int) -> None:
    reply = Client(port).send("POST", "/recommend", body)
    assert reply.status in (200, 400, 422), reply
    if reply.status != 200:
        refused(reply.data)


def test_a_fault_of_ours_is_an_error_without_its_traceback(
    model: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    with serving(model) as port:
        broken = monkeypatch.context()
        with broken as patch:
            patch.setattr(model.engine, "rank", lambda *_: 1 / 0)
            reply = Client(port).ask(histories=[model.history(0)[:2]])
            assert reply.status == 500
            refused(reply.data)
        assert Client(port).ask(histories=[model.history(0)[:2]]).status == 200


def test_sigterm_ends_the_command_after_what_is_under_way(trained: Path) -> None:
    command = [sys.executable, "-m", "ilrec_cli", "serve", "--dataset", "toy", "--work", str(trained), "--run", "sft"]
    flags = ["--port", "0", "--wait-ms", "400", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    port = int(process.stdout.readline().rsplit(":", 1)[1])
    item = Recommender.load(trained / "toy" / "runs" / "sft").raw_ids[0]
    assert Client(port).send("GET", "/health").status == 200
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(lambda: Client(port).ask(histories=[[item]], k=2))
        time.sleep(0.2)  # it waits for company
        process.send_signal(signal.SIGTERM)
        assert reply.result(30).status == 200
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert json.loads(out.splitlines()[-1])["answered"] == 1


def test_what_keeps_a_server_from_starting(
    trained: Path, port: int, ilrec: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    common = ["serve", "--dataset", "toy", "--work", trained, "--run", "sft"]
    assert "cannot listen on 127.0.0.1" in ilrec(*common, "--port", port).one_line()
    assert "port is 70000" in ilrec(*common, "--port", 70000).one_line()
    assert (
        "wait_ms is 30000, expected less than --timeout"
        in ilrec(*common, "--port", 0, "--stop-after", 0.2, "--wait-ms", 30000).one_line()
    )
    assert "no training run 'none'" in ilrec(*common[:-1], "none", "--port", 0).one_line()
    done = ilrec(*common, "--port", 0, "--stop-after", 0.2, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out.splitlines()[-1])["answered"] == 0
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *rest: None if name == "uvicorn" else found(name, *rest)
    )
    line = ilrec(*common).one_line()
    assert "ilrec serve needs uvicorn" in line
    assert "pip install 'ilrec[serve]'" in line
