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
import weakref
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
WRITE = "satchel.write"
"""Key of an ASGI scope: a WritePiece, where there is one."""
WritePiece = Callable[[bytes], bool]
"""Sends a piece of a reply whose head was sent, at once; False when that must be left to the usual
way. Each layer on that way costs time for every token."""
KEEP_ALIVE = b": waiting\n\n"
"""A comment in a stream of server-sent events."""

T = TypeVar("T")


class _Post:
    """Carries events into a loop: all that come before it has woken up wake it once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._wake = loop.call_soon_threadsafe
        self._waiting: deque[tuple[Events, Event]] = deque()
        self._due = False

    def send(self, to: Events, event: Event) -> None:
        """From any thread. Raises RuntimeError when the loop is closed."""
        self._waiting.append((to, event))
        if not self._due:
            self._due = True
            self._wake(self._deliver)

    def _deliver(self) -> None:
        # First: what is put in the queue from now on is either seen below, or wakes it again.
        self._due = False
        while self._waiting:
            to, event = self._waiting.popleft()
            to.put(event)


_posts: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Post] = weakref.WeakKeyDictionary()


class Events:
    """The events of one request, or of several that are answered as one (see `joined`)."""

    def __init__(self, engine: Engine, *requests: AnyRequest) -> None:
        """Submit them."""
        self._loop = asyncio.get_running_loop()
        self._arrived: deque[Event] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._patience = 0.0
        """When the waiter has waited for long enough, on the loop's clock."""
        self._next_look = time.monotonic() + LOOK_SECONDS
        cancel: Callable[[], None] = lambda: None  # noqa: E731

        post = _posts.get(self._loop) or _posts.setdefault(self._loop, _Post(self._loop))

        def sink(event: Event) -> None:
            try:
                post.send(self, event)
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
            self._patience = self._loop.time() + timeout
            if self._alarm is None or self._alarm.when() > self._patience:
                self._set_alarm()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._arrived.popleft() if self._arrived else None

    def put(self, event: Event) -> None:
        """Take in an event, in the loop."""
        self._arrived.append(event)
        if isinstance(event, LAST_EVENTS):
            self._stop_alarm()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _set_alarm(self) -> None:
        self._stop_alarm()
        self._alarm = self._loop.call_at(self._patience, self._ring)

    def _stop_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _ring(self) -> None:
        """One alarm lasts for many events: it looks whether those have put it off."""
        self._alarm = None
        if self._waiter is None:
            return
        if self._loop.time() < self._patience:
            self._set_alarm()
        else:
            self._wake()

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
        self._stop_alarm()
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
        self._pieces = pieces
        self._write: WritePiece | None = None

    async def stream_response(self, send: Send) -> None:
        """Send it all: its pieces, where possible, past what is around the application."""
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        async for piece in self._pieces:
            if self._write is None or not self._write(piece):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._write = scope.get(WRITE)
        # Not left to the generator: a client that has gone already keeps it from starting.
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._events.cancel()
