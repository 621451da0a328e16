"""A server in a thread of this process, and a plain client."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from ilrec_cli.settings import Serve
from ilrec_cli.stages.serve import listen, make_server


class Reply(NamedTuple):
    status: int
    data: Any


class Client:
    """One connection, kept open as browsers and services do."""

    def __init__(self, port: int):
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def send(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Reply:
        try:
            self._connection.request(method, path, body, headers or {"Content-Type": "application/json"})
            response = self._connection.getresponse()
            text = response.read()
        except Exception:
            self._connection.close()
            raise
        return Reply(response.status, json.loads(text) if text and method != "HEAD" else None)

    def ask(self, **body: Any) -> Reply:
        return self.send("POST", "/recommend", json.dumps(body).encode())


@contextmanager
def serving(recommender: Any, **settings: Any) -> Iterator[int]:
    """The port of a running server."""
    config = Serve(dataset="toy", port=0, **settings)
    server, batcher = make_server(recommender, config)
    with listen(config) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(30)
            batcher.stop(30)
            assert not thread.is_alive()
            assert not batcher.alive


def exchange(port: int, raw: bytes, seconds: float = 5.0) -> bytes:
    """What comes back for these very bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        connection.sendall(raw)
        found = b""
        try:
            while part := connection.recv(65536):
                found += part
                head, _, rest = found.partition(b"\r\n\r\n")
                length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
                if length and len(rest) >= int(length[0].split(b":")[1]):
                    break
        except TimeoutError:
            pass
        return found
