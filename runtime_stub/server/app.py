"""The HTTP application: routes, limits, and the way from a request to the engine and back."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import anyio
import msgspec
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from runtime_stub.engine.engine import Engine, Ticket
from runtime_stub.engine.messages import Event, Failed, Finished, Request, Sampling
from runtime_stub.server.openai import (
    ChatReply,
    ChatRequest,
    engine_request,
    error_document,
    parse_chat,
)

MAX_BODY = 16 << 20
"""Largest request body, in bytes."""
_LOOK_SECONDS = 0.5
"""How often to see whether the client of an answer that is not streamed is still there."""
_KEEP_ALIVE_SECONDS = 15.0
"""A comment goes down an idle stream this often, so that proxies keep it open."""


@dataclass(frozen=True)
class Defaults:
    """What the pack itself says where a client says nothing."""

    model: str
    created: int
    """When the model was packed or started, seconds since 1970, for /v1/models."""
    sampling: Sampling
    system: str | None = None
    max_tokens: int | None = None


def make_app(engine: Engine, defaults: Defaults) -> Starlette:
    """The application that answers with `engine`."""
    faces = _Faces(engine, defaults)
    return Starlette(
        routes=[
            Route("/health", faces.health),
            Route("/v1/models", faces.models),
            Route("/v1/chat/completions", faces.chat_completions, methods=["POST"]),
        ],
        exception_handlers={404: _not_found, 405: _wrong_method, 500: _internal_error},
    )


class _Faces:
    def __init__(self, engine: Engine, defaults: Defaults) -> None:
        self._engine = engine
        self._defaults = defaults

    async def health(self, _request: HttpRequest) -> Response:
        status = self._engine.status
        document: dict[str, object] = {"status": "ok" if status.state == "ready" else status.state}
        if status.state == "loading":
            document["progress"] = round(status.progress, 3)
        if status.message:
            document["error"] = status.message
        return _json(document, 200 if status.state == "ready" else 503)

    async def models(self, _request: HttpRequest) -> Response:
        model = {
            "id": self._defaults.model,
            "object": "model",
            "created": self._defaults.created,
            "owned_by": "satchel",
        }
        return _json({"object": "list", "data": [model]})

    async def chat_completions(self, http: HttpRequest) -> Response:
        try:
            chat = parse_chat(await _read_body(http))
            if chat.model not in ("", "default", self._defaults.model):
                return _problem(
                    404,
                    f"there is no model {chat.model!r} here; known: {self._defaults.model}",
                    "model_not_found",
                )
            defaults = self._defaults
            request = engine_request(chat, defaults.sampling, defaults.system, defaults.max_tokens)
        except _BodyTooLargeError:
            return _problem(413, f"the request is larger than {MAX_BODY >> 20} MB")
        except ValueError as error:
            return _problem(400, str(error))
        reply = ChatReply(secrets.token_hex(12), int(time.time()), defaults.model)
        events = _Events(self._engine, request)
        try:
            first = await events.get_or_disconnect(http)
            if first is not None and not isinstance(first, Failed) and chat.stream:
                return _Stream(first, events, reply, chat)
            return await _whole(first, events, reply, http)
        except BaseException:  # also when this task is cancelled, as a server that stops does
            events.cancel()
            raise


async def _whole(
    event: Event | None, events: _Events, reply: ChatReply, http: HttpRequest
) -> Response:
    """One answer in one response, beginning with its first event."""
    while event is not None and not isinstance(event, (Finished, Failed)):
        reply.add(event)
        event = await events.get_or_disconnect(http)
    if event is None:
        return Response(status_code=499)
    if isinstance(event, Failed):
        return _failure(event)
    reply.add(event)
    return _json(reply.whole())


class _Stream(StreamingResponse):
    """One answer as server-sent events. However sending ends, the request is cancelled."""

    def __init__(self, first: Event, events: _Events, reply: ChatReply, chat: ChatRequest) -> None:
        super().__init__(
            _documents(first, events, reply, chat),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Not left to the generator: a client that has gone already keeps it from starting.
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._events.cancel()


async def _documents(
    event: Event, events: _Events, reply: ChatReply, chat: ChatRequest
) -> AsyncIterator[bytes]:
    yield _sse(reply.first_chunk())
    while True:
        reply.add(event)
        if isinstance(event, Failed):
            yield _sse(error_document(event.message, "server_error"))
            return
        chunk = reply.chunk(event)
        if chunk is not None:
            yield _sse(chunk)
        if isinstance(event, Finished):
            break
        while (following := await events.get(_KEEP_ALIVE_SECONDS)) is None:
            yield b": waiting\n\n"
        event = following
    if chat.stream_options is not None and chat.stream_options.include_usage:
        yield _sse(reply.usage_chunk())
    yield b"data: [DONE]\n\n"


class _Events:
    """The engine's events of one request, carried into the event loop."""

    def __init__(self, engine: Engine, request: Request) -> None:
        loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Event] = asyncio.Queue()
        self._next_look = time.monotonic() + _LOOK_SECONDS

        def sink(event: Event) -> None:
            try:
                loop.call_soon_threadsafe(self._queue.put_nowait, event)
            except RuntimeError:
                ticket_cancel()  # the loop is closed: nobody waits any more

        ticket_cancel: Callable[[], None] = lambda: None  # noqa: E731
        self._ticket: Ticket = engine.submit(request, sink)
        ticket_cancel = self._ticket.cancel

    async def get(self, timeout: float) -> Event | None:
        """The next event, None when `timeout` seconds pass without one."""
        # asyncio.wait_for loses this task's own cancellation if an event comes just then
        # (until Python 3.12), and asyncio.timeout is not in 3.10.
        with anyio.move_on_after(timeout):
            return await self._queue.get()
        return None

    async def get_or_disconnect(self, http: HttpRequest) -> Event | None:
        """The next event, None (and the request cancelled) when the client has gone."""
        while True:
            # Looked at now and then only, but also while events come without a pause.
            if time.monotonic() > self._next_look:
                self._next_look = time.monotonic() + _LOOK_SECONDS
                if await http.is_disconnected():
                    self.cancel()
                    return None
            event = await self.get(_LOOK_SECONDS)
            if event is not None:
                return event

    def cancel(self) -> None:
        """Stop generating; harmless when it has ended."""
        self._ticket.cancel()


class _BodyTooLargeError(Exception):
    pass


async def _read_body(http: HttpRequest) -> bytes:
    body = bytearray()
    try:
        async for piece in http.stream():
            body += piece
            if len(body) > MAX_BODY:
                raise _BodyTooLargeError
    except ClientDisconnect:
        raise ValueError("the client went away before its request was complete") from None
    return bytes(body)


def _json(document: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(document), status, media_type="application/json")


def _sse(document: object) -> bytes:
    return b"data: " + msgspec.json.encode(document) + b"\n\n"


def _problem(status: int, message: str, code: str | None = None) -> Response:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return _json(error_document(message, kind, code), status)


def _failure(event: Failed) -> Response:
    message = f"{event.message}. {event.hint}" if event.hint else event.message
    if event.kind == "too-long":
        return _problem(400, message, "context_length_exceeded")
    return _problem(400 if event.kind == "prompt" else 503, message)


async def _not_found(http: HttpRequest, _error: Exception) -> Response:
    return _problem(404, f"there is nothing at {http.url.path}")


async def _wrong_method(http: HttpRequest, error: Exception) -> Response:
    response = _problem(405, f"{http.url.path} does not take {http.method}")
    response.headers.update(getattr(error, "headers", None) or {})
    return response


async def _internal_error(_http: HttpRequest, _error: Exception) -> Response:
    return _problem(500, "the server failed to handle the request")
