"""Counts what goes through: HTTP requests, and what the engine does for them."""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime_stub.engine.interface import AnyTicket, Sink
from runtime_stub.engine.messages import (
    LAST_EVENTS,
    AnyRequest,
    Begun,
    Embeddings,
    Event,
    Failed,
    Finished,
    PromptRead,
    Reasoning,
    Scores,
    Text,
    ToolCall,
)
from runtime_stub.server.state import Engine, EngineAround
from runtime_stub.server.tally import Tally

ROUTE = "satchel.route"
"""Key of an ASGI scope: the path of the operation that was found for the request."""
_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")


class Metered:
    """Counts an application's requests by method, route and status."""

    def __init__(self, app: ASGIApp, tally: Tally) -> None:
        self._app = app
        self._tally = tally

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = 500
        start = time.monotonic()

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, note)
        finally:
            # Only names of our own: a client must not make up labels without end.
            method = scope["method"] if scope["method"] in _METHODS else "other"
            with self._tally.lock:
                self._tally.requests[method, scope.get(ROUTE, "none"), status] += 1
                self._tally.request_seconds.add(time.monotonic() - start)


class MeteredEngine(EngineAround):
    """An engine whose work is counted."""

    def __init__(self, engine: Engine, tally: Tally, model: str = "") -> None:
        """`model` is its name, to tell its slots from others'."""
        super().__init__(engine)
        self._tally = tally
        self._model = model

    def submit(self, request: AnyRequest, sink: Sink) -> AnyTicket:
        """Queue a request; what its events tell is counted."""
        return super().submit(request, _Meter(self._tally, self._model, sink))


class _Meter:
    """A sink that counts one request's events on their way."""

    def __init__(self, tally: Tally, model: str, sink: Sink) -> None:
        self._tally = tally
        self._model = model
        self._slots: set[tuple[str, int]] = set()
        self._sink = sink
        self._start = time.monotonic()
        self._reading = True
        self._silent = True
        with tally.lock:
            tally.waiting += 1

    def __call__(self, event: Event) -> None:
        if type(event) is Text and not self._silent:
            self._sink(event)  # nearly always: a further piece of an answer
            return
        with self._tally.lock:
            self._count(event)
        if not isinstance(event, Begun):  # which is for those who count
            self._sink(event)

    def _count(self, event: Event) -> None:
        tally = self._tally
        last = isinstance(event, LAST_EVENTS)
        if isinstance(event, Begun):
            self._slots = {(self._model, slot) for slot in event.slots}
            tally.slots |= self._slots
        if self._reading and (last or isinstance(event, PromptRead)):
            self._reading = False
            tally.waiting -= 1
            tally.running += 1
        if self._silent and isinstance(event, (Text, Reasoning, ToolCall)):
            self._silent = False
            tally.first_token.add(time.monotonic() - self._start)
        if last:
            tally.running -= 1
            tally.slots -= self._slots
        if isinstance(event, Failed):
            tally.failures[event.kind] += 1
        elif isinstance(event, Finished):
            usage = event.usage
            tally.reasons[event.reason] += 1
            tally.prompt_tokens += usage.prompt_tokens
            tally.cached_tokens += usage.cached_tokens
            tally.completion_tokens += usage.completion_tokens
            tally.prompt_seconds += usage.prompt_seconds
            tally.completion_seconds += usage.completion_seconds
            if usage.completion_tokens > 1 and usage.completion_seconds > 0:
                tally.speed.add(usage.completion_tokens / usage.completion_seconds)
        elif isinstance(event, (Embeddings, Scores)):
            tally.prompt_tokens += event.tokens
