"""From the engine into the event loop, and back when a client leaves.

with Events(engine, request) as events:            # an exception cancels the request
    if stream:
        first = await events.first(http)           # problems still get a status of their own
        return Stream(events, first, pieces)       # of `streaming`
    return json(document_of(await events.answer(http)))
"""

from __future__ import annotations

import asyncio
import functools
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TypeVar

from starlette.requests import Request as HttpRequest

from runtime_stub.engine.messages import LAST_EVENTS, AnyRequest, Event, Failed
from runtime_stub.engine.remote import RemoteEngine
from runtime_stub.server.answer import Answer
from runtime_stub.server.joined import submit_all
from runtime_stub.server.replies import ClientGoneError, problem_of
from runtime_stub.server.state import Engine

LOOK_SECONDS = 0.5
"""How often to see whether the client of an answer that is not streamed is still there, for where
nothing tells when it leaves: not every server does, and from a client that has sent its next
request already nothing more is read until then."""
WATCH = "satchel.watch"
"""Key of an ASGI scope: a Watch, where there is one."""
Watch = Callable[[Callable[[], None] | None], None]
"""Has something called as soon as the client leaves, at once if it has left; None for nothing."""
BEGIN_SECONDS = 10.0
"""After so long an answer to be streamed begins, whatever there is to say: proxies give up on who
says nothing, and some wait for a minute only."""
_LAST = frozenset(LAST_EVENTS)

T = TypeVar("T")


def listen_here(engines: Iterable[RemoteEngine]) -> None:
    """Have the running event loop read what the engines say, where it can."""
    loop = asyncio.get_running_loop()
    if isinstance(loop, asyncio.SelectorEventLoop):
        for engine in engines:
            engine.listen_in(loop)


class _Post:
    """Carries events into a loop: all that other threads send before it has woken up wake it
    once, and what comes in the loop itself is there at once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Of the loop that runs."""
        self._wake = loop.call_soon_threadsafe
        self._thread = threading.get_ident()
        self._waiting: deque[tuple[Events, Event]] = deque()
        self._due = False

    def send(self, to: Events, event: Event) -> None:
        """From any thread."""
        here = threading.get_ident() == self._thread
        if here and not self._waiting:
            to.put(event)
            return
        self._waiting.append((to, event))
        if here:
            self._deliver()
        elif not self._due:
            self._due = True
            try:
                self._wake(self._deliver)
            except RuntimeError:
                to.abandon()  # the loop is closed: nobody waits any more

    def _deliver(self) -> None:
        # First: what is put in the queue from now on is either seen below, or wakes it again.
        self._due = False
        while self._waiting:
            to, event = self._waiting.popleft()
            to.put(event)


_posts: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Post] = weakref.WeakKeyDictionary()


class _Bell:
    """Wakes the one task that waits for it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._rung = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._patience = 0.0
        """When the waiter has waited for long enough, on the loop's clock."""

    def ring(self, error: Exception | None = None) -> None:
        """Wake it, or who waits next; with what went wrong, if anything did."""
        self._rung = True
        self._error = self._error or error
        self._wake()

    def be_patient(self, seconds: float) -> None:
        """From now on, so many seconds are long enough."""
        self._patience = self._loop.time() + seconds

    async def wait(self) -> bool:
        """Wait until it was rung; False when that took too long. Raises what went wrong."""
        # A queue and a timeout of the libraries' take several times as long.
        if not self._rung:
            self._waiter = self._loop.create_future()
            if self._alarm is None or self._alarm.when() > self._patience:
                self._set_alarm()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self._error is not None:
            raise self._error
        rung, self._rung = self._rung, False
        return rung

    def stop(self) -> None:
        """Nobody waits any more."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _set_alarm(self) -> None:
        self.stop()
        self._alarm = self._loop.call_at(self._patience, self._look)

    def _look(self) -> None:
        """One alarm lasts for many events: see whether those have put it off."""
        self._alarm = None
        if self._waiter is None:
            return
        if self._loop.time() < self._patience:
            self._set_alarm()
        else:
            self._wake()


class Events:
    """The events of one request, or of several that are answered as one (see `joined`)."""

    def __init__(
        self,
        engine: Engine,
        *requests: AnyRequest,
        at_once: int | None = None,
        seconds: float = 0.0,
    ) -> None:
        """Submit them, of several answers `at_once` so many, and all within `seconds`."""
        loop = asyncio.get_running_loop()
        self.bell = _Bell(loop)
        """Rung when an event has arrived that nobody takes."""
        self._arrived: deque[Event] = deque()
        self._take: Callable[[Event], object] | None = None
        self.abandon: Callable[[], None] = lambda: None
        """Stop generating."""
        post = _posts.get(loop) or _posts.setdefault(loop, _Post(loop))
        sink = functools.partial(post.send, self)
        self.abandon = submit_all(engine, requests, sink, at_once, seconds)

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
        else:
            self.bell.stop()

    def put(self, event: Event) -> None:
        """Take in an event, in the loop."""
        if self._take is None:
            self._arrived.append(event)
            self.bell.ring()
            return
        try:
            self._take(event)
        except Exception as error:  # noqa: BLE001  (raised where the bell is waited for)
            self._take = _ignore  # an answer with a gap is worse than half of one
            self.bell.ring(error)

    def divert(self, take: Callable[[Event], object]) -> None:
        """Give all events to `take` as they come, instead of waking a task for each: that costs
        time for every token of every answer, on processors that the engine wants for itself."""
        self._take = take
        while self._arrived:
            self.put(self._arrived.popleft())

    async def next(self, http: HttpRequest) -> Event:
        """The next event. Raises Problem for Failed, ClientGoneError when the client left."""
        while not self._arrived:
            await self._wait(http)
        event = self._arrived.popleft()
        if isinstance(event, Failed):
            raise problem_of(event)
        return event

    async def first(self, http: HttpRequest) -> Event | None:
        """The first event, of an answer that is streamed; None if it does not come for
        BEGIN_SECONDS. Raises as `next` does."""
        loop = asyncio.get_running_loop()
        until = loop.time() + BEGIN_SECONDS
        while not self._arrived:
            if loop.time() >= until:
                return None
            await self._wait(http)
        return await self.next(http)

    async def rest(self, http: HttpRequest, take: Callable[[Event], object]) -> None:
        """Give all that follow to `take`. Raises as `next` does."""
        last: Event | None = None

        def note(event: Event) -> None:
            nonlocal last
            if isinstance(event, LAST_EVENTS):
                last = event
                self.bell.ring()
            take(event)

        self.divert(note)
        while last is None:
            await self._wait(http)
        if isinstance(last, Failed):
            raise problem_of(last)

    async def answer(self, http: HttpRequest) -> Answer:
        """All of the answer. Raises as `next` does."""
        answer = Answer()
        await self.rest(http, answer.add)
        return answer

    async def _wait(self, http: HttpRequest) -> None:
        """Wait for the bell, and see whether the client is still there."""
        watch: Watch = http.scope.get(WATCH, _ignore)
        watch(self._note_leaving)
        self.bell.be_patient(LOOK_SECONDS)
        try:
            rung = await self.bell.wait()
        finally:
            watch(None)
        if not rung and await has_left(http):
            raise ClientGoneError

    def _note_leaving(self) -> None:
        self.bell.ring(ClientGoneError())

    def cancel(self) -> None:
        """Stop generating, and take nothing that comes nevertheless; harmless when it has
        ended."""
        self._take = _ignore
        self.bell.stop()
        self.abandon()


async def has_left(http: HttpRequest) -> bool:
    """Whether the client of a request whose body has been read is known to be gone. Starlette's own
    way loads a library the first time: answers that are streamed would halt for 50 ms."""
    coming = asyncio.ensure_future(http.receive())
    await asyncio.sleep(0)
    if not coming.done():
        coming.cancel()
        await asyncio.wait([coming])
        return False
    return bool(coming.result()["type"] == "http.disconnect")


def _ignore(_: object) -> None:
    """For events that nobody waits for any more, and where nobody watches."""


async def ask(engine: Engine, request: AnyRequest, kind: type[T], http: HttpRequest) -> T:
    """The one event, of type `kind`, that answers a request. Raises as `Events.next` does."""
    with Events(engine, request) as events:
        event = await events.next(http)
    if not isinstance(event, kind):
        raise TypeError(f"the engine answered {type(request).__name__} with {event!r}")
    return event
