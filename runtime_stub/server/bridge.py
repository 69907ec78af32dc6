"""From the engine's threads into the event loop, and back when a client leaves.

with Events(engine, request) as events:            # an exception cancels the request
    if stream:
        first = await events.next(http)            # problems still get a status of their own
        return Stream(events, pieces(events.stream(first)), "text/event-stream")
    return json(document_of(await events.answer(http)))
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import TypeVar

from starlette.requests import Request as HttpRequest
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from runtime_stub.engine.messages import LAST_EVENTS, AnyRequest, Event, Failed
from runtime_stub.server.answer import Answer
from runtime_stub.server.joined import submit_all
from runtime_stub.server.replies import ClientGoneError, problem_of
from runtime_stub.server.state import Engine

LOOK_SECONDS = 0.5
"""How often to see whether the client of an answer that is not streamed is still there."""
KEEP_ALIVE_SECONDS = 15.0
"""Something goes down an idle stream this often, so that proxies keep it open."""
KEEP_ALIVE = b": waiting\n\n"
"""A comment in a stream of server-sent events."""

T = TypeVar("T")


class Events:
    """The events of one request, or of several that are answered as one (see `joined`)."""

    def __init__(self, engine: Engine, *requests: AnyRequest) -> None:
        """Submit them."""
        self._loop = asyncio.get_running_loop()
        self._arrived: deque[Event] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._next_look = time.monotonic() + LOOK_SECONDS
        cancel: Callable[[], None] = lambda: None  # noqa: E731

        def sink(event: Event) -> None:
            try:
                self._loop.call_soon_threadsafe(self._put, event)
            except RuntimeError:
                cancel()  # the loop is closed: nobody waits any more

        cancel = self._cancel = submit_all(engine, requests, sink)

    def __enter__(self) -> Events:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Also when this task is cancelled, as a server that stops does. Without an exception the
        # request has ended, or a Stream has taken it over.
        if kind is not None:
            self.cancel()

    async def get(self, timeout: float) -> Event | None:
        """The next event, None when `timeout` seconds pass without one. For one task."""
        # Done for every token of every stream, on processors that the engine wants for itself:
        # a queue and a timeout of the libraries' take several times as long.
        if not self._arrived:
            self._waiter = self._loop.create_future()
            alarm = self._loop.call_later(timeout, self._wake)
            try:
                await self._waiter
            finally:
                alarm.cancel()
                self._waiter = None
        return self._arrived.popleft() if self._arrived else None

    def _put(self, event: Event) -> None:
        self._arrived.append(event)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def next(self, http: HttpRequest) -> Event:
        """The next event. Raises Problem for Failed, ClientGoneError when the client left."""
        while True:
            # Looked at now and then only, but also while events come without a pause.
            if time.monotonic() > self._next_look:
                self._next_look = time.monotonic() + LOOK_SECONDS
                if await http.is_disconnected():
                    raise ClientGoneError
            event = await self.get(LOOK_SECONDS)
            if isinstance(event, Failed):
                raise problem_of(event)
            if event is not None:
                return event

    async def answer(self, http: HttpRequest) -> Answer:
        """All of the answer. Raises as `next` does."""
        answer = Answer()
        while True:
            event = await self.next(http)
            answer.add(event)
            if isinstance(event, LAST_EVENTS):
                return answer

    async def stream(self, event: Event) -> AsyncIterator[Event | None]:
        """`event` and all that follow, Failed among them; None whenever a sign of life is due."""
        yield event
        while not isinstance(event, LAST_EVENTS):
            following = await self.get(KEEP_ALIVE_SECONDS)
            yield following
            event = following or event

    def cancel(self) -> None:
        """Stop generating; harmless when it has ended."""
        self._cancel()


async def ask(engine: Engine, request: AnyRequest, kind: type[T], http: HttpRequest) -> T:
    """The one event, of type `kind`, that answers a request. Raises as `Events.next` does."""
    with Events(engine, request) as events:
        event = await events.next(http)
    if not isinstance(event, kind):
        raise TypeError(f"the engine answered {type(request).__name__} with {event!r}")
    return event


class Stream(StreamingResponse):
    """A streamed answer. However sending ends, the request is cancelled."""

    def __init__(
        self, events: Events, pieces: AsyncIterator[bytes], media_type: str = "text/event-stream"
    ) -> None:
        super().__init__(
            pieces,
            media_type=media_type,
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Not left to the generator: a client that has gone already keeps it from starting.
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._events.cancel()
