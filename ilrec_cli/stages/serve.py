"""A trained model behind HTTP, until it is told to stop."""

from __future__ import annotations

import importlib.util
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ilrec_cli import devices
from ilrec_cli.console import Console
from ilrec_cli.errors import UserError
from ilrec_cli.settings import Serve
from ilrec_cli.stages._recommender import Query, Recommendation, Recommender

if TYPE_CHECKING:
    import uvicorn

    from ilrec_cli.serve.app import Ask
    from ilrec_cli.serve.batcher import Batcher

EXTRA = ("fastapi", "uvicorn")
MAX_CONNECTIONS = 900  # below the usual limit of 1,024 open files
MAX_HEADER_BYTES = 32_768
FINISH_SECONDS = 10  # for what is under way when the server is told to stop


def run(config: Serve) -> dict[str, Any]:
    """Serve until SIGINT, SIGTERM or --stop-after; what was answered meanwhile."""
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"ilrec serve needs {' and '.join(missing)}. Install it: pip install 'ilrec[serve]'")
    console = Console.of(config)
    with listen(config) as listener:
        devices.keep_freed_memory(devices.resolve(config.device))
        recommender = Recommender(config)
        server, batcher = make_server(recommender, config)
        host, port = listener.getsockname()[:2]
        if host not in ("127.0.0.1", "::1"):
            console.warn(f"no authentication: whoever reaches {host}:{port} is answered")
        console.say(
            f"{recommender.model.name} on {config.dataset}, {len(recommender.raw_ids):,} items: http://{host}:{port}\n"
            "POST /recommend, GET /health, GET /card; Ctrl-C stops"
        )
        timer = threading.Timer(config.stop_after or 0.0, _stop, [server])
        if config.stop_after is not None:
            timer.start()
        with suppress(KeyboardInterrupt):  # uvicorn finishes what is under way, then raises the signal again
            server.run(sockets=[listener])
        timer.cancel()
        batcher.stop(FINISH_SECONDS)
    console.say(f"Stopped; {batcher.answered:,} requests answered")
    return {"run": recommender.model.name, "port": port, "answered": batcher.answered, "batches": batcher.batches}


def make_server(recommender: Recommender, config: Serve) -> tuple[uvicorn.Server, Batcher[Query, Any]]:
    """(the server, its started batcher), the model loaded."""
    import uvicorn

    from ilrec_cli.serve import app as web
    from ilrec_cli.serve.batcher import Batcher

    assert recommender.engine is not None
    batcher: Batcher[Query, Any] = Batcher(
        recommender.answer,
        batch_size=config.batch_size,
        wait_seconds=config.wait_ms / 1000,
        capacity=config.max_queue,
    )
    limits = web.Limits(
        body_bytes=config.max_body_kb * 1024, histories=config.max_histories, items=config.max_items,
        id_length=config.max_id_length, k=config.max_k, seconds=config.timeout,
    )  # fmt: skip
    settings = uvicorn.Config(
        web.build(_Answers(recommender), batcher, limits, _entry), log_level="error", access_log=False, http="h11", ws="none",
        lifespan="off", server_header=False, limit_concurrency=MAX_CONNECTIONS, timeout_keep_alive=30,
        timeout_graceful_shutdown=FINISH_SECONDS, h11_max_incomplete_event_size=MAX_HEADER_BYTES,
    )  # fmt: skip
    batcher.start()
    return uvicorn.Server(settings), batcher


class _Answers:
    """A recommender as the application sees it."""

    def __init__(self, recommender: Recommender):
        self._recommender = recommender

    def queries(self, ask: Ask) -> list[Query]:
        its = self._recommender
        allow = None if ask.allow is None else its.items(ask.allow, "allow: ", ask.unknown)
        deny = its.items(ask.deny, "deny: ", ask.unknown)
        return [
            its.query(history, ask.k, where=f"histories.{row}: ", hide_seen=ask.hide_seen, allow=allow, deny=deny,
                      unknown=ask.unknown) for row, history in enumerate(ask.histories)
        ]  # fmt: skip

    def card(self) -> dict[str, Any]:
        return self._recommender.card()


def _entry(query: Query, listed: list[Recommendation]) -> dict[str, Any]:
    return {"recommendations": [each._asdict() for each in listed], "unknown_ids": query.skipped}


def _stop(server: uvicorn.Server) -> None:
    server.should_exit = True


def listen(config: Serve) -> socket.socket:
    """A socket that is bound before the model is loaded: a port that is taken is known at once."""
    try:
        family = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((config.host, config.port), family=family, backlog=1024)
        # Connections inherit it. Without it, the body of an answer waits 40 ms for the other side to confirm its head.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        raise UserError(
            f"cannot listen on {config.host}:{config.port} ({error.strerror}). Choose another --port, or 0 for a free one"
        ) from error
