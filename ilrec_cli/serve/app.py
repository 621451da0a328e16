"""The application: POST /recommend, GET /health, GET /card. Every refusal is one line of JSON: {"error": ...}.

Requests are checked before the model sees them: size and arrival time of the body, its form, lengths of everything in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple, Protocol

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from ilrec_cli.errors import UserError, one_line
from ilrec_cli.serve.batcher import Batcher, Busy

SHOWN_FAULTS = 3  # of a request that breaks its form


class Limits(NamedTuple):
    """What a request may hold, and how long it may take."""

    body_bytes: int
    histories: int
    items: int
    id_length: int
    k: int
    seconds: float


# To describe every fault of a large request would keep all others waiting.
Ids = Annotated[list[str], Field(fail_fast=True)]


class Ask(BaseModel):
    """The body of POST /recommend; ids are original ids, histories oldest first."""

    model_config = ConfigDict(extra="forbid", strict=True)

    histories: list[Ids] = Field(min_length=1, fail_fast=True)
    k: int = Field(10, ge=1)
    hide_seen: bool = True
    allow: Ids | None = None
    deny: Ids = []
    unknown: Literal["error", "skip"] = "error"


class Answers(Protocol):
    """What stands behind the server: the queries of a request (`UserError` for ids unknown), and its card."""

    def queries(self, ask: Ask) -> list[Any]: ...
    def card(self) -> dict[str, Any]: ...


def build(answers: Answers, batcher: Batcher[Any, Any], limits: Limits, render: Callable[[Any, Any], Any]) -> FastAPI:
    """The application; `render(query, answer)` is one entry of a response."""
    app = FastAPI(
        title="ilrec", docs_url=None, redoc_url=None, redirect_slashes=False
    )  # the pages load scripts from elsewhere
    form = {"requestBody": {"required": True, "content": {"application/json": {"schema": Ask.model_json_schema()}}}}
    card = answers.card() | {"limits": limits._asdict()}

    @app.post("/recommend", openapi_extra=form)
    async def recommend(request: Request) -> JSONResponse:
        ask = _parsed(await _body(request, limits))
        _check(ask, limits)
        try:
            queries = answers.queries(ask)
            listed = await batcher.submit(queries, limits.seconds)
        except UserError as error:
            raise HTTPException(422, str(error)) from error
        except Busy as error:
            raise HTTPException(503, "too many requests wait; come back", {"Retry-After": "1"}) from error
        except TimeoutError as error:
            raise HTTPException(503, f"no answer within {limits.seconds:g} seconds", {"Retry-After": "1"}) from error
        return JSONResponse({"results": [render(*pair) for pair in zip(queries, listed, strict=True)]})

    @app.get("/health")
    async def health() -> JSONResponse:
        state = {
            "status": "ok" if batcher.alive else "stopped",
            "answered": batcher.answered,
            "waiting": batcher.waiting,
        }
        return JSONResponse(state, 200 if batcher.alive else 503)

    @app.get("/card")
    async def show_card() -> JSONResponse:
        return JSONResponse(card)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": one_line(error.detail)}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": "internal error; see the server's log"}, 500)

    return app


async def _body(request: Request, limits: Limits) -> bytes:
    """The body, no more of it than allowed, no longer than allowed."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPException(415, "expected Content-Type: application/json")
    length = request.headers.get("content-length", "0")
    too_large = HTTPException(413, f"the request is larger than {limits.body_bytes:,} bytes", {"Connection": "close"})
    if not length.isdecimal() or int(length[:12]) > limits.body_bytes:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(limits.seconds):
            async for part in request.stream():
                body += part
                if len(body) > limits.body_bytes:
                    raise too_large
    except TimeoutError as error:
        raise HTTPException(408, "the request arrives too slowly", {"Connection": "close"}) from error
    except ClientDisconnect as error:
        raise HTTPException(400, "the client went away") from error
    return bytes(body)


def _parsed(body: bytes) -> Ask:
    try:
        return Ask.model_validate_json(body)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        broken = faults[0]["type"] == "json_invalid"
        shown = [": ".join(filter(None, (_place(fault["loc"]), fault["msg"]))) for fault in faults[:SHOWN_FAULTS]]
        more = f" (and {len(faults) - SHOWN_FAULTS:,} more)" if len(faults) > SHOWN_FAULTS else ""
        raise HTTPException(400 if broken else 422, "; ".join(shown) + more) from error


def _place(parts: tuple[int | str, ...]) -> str:
    return ".".join(str(part)[:60] for part in parts)


def _check(ask: Ask, limits: Limits) -> None:
    """Lengths; the message names what is too long."""
    _at_most(len(ask.histories), limits.histories, "histories: histories of a request")
    _at_most(ask.k, limits.k, "k: items asked for")
    lists = {f"histories.{row}": history for row, history in enumerate(ask.histories)}
    for name, ids in {**lists, "allow": ask.allow or [], "deny": ask.deny}.items():
        _at_most(len(ids), limits.items, f"{name}: ids")
        _at_most(max(map(len, ids), default=0), limits.id_length, f"{name}: characters of an id")


def _at_most(found: int, most: int, what: str) -> None:
    if found > most:
        raise HTTPException(422, f"{what}: {found:,}, expected at most {most:,}")
