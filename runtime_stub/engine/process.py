"""The engine's own process: takes requests from a socket, and gives events to it.

    reader thread  ──> engine.submit ──> the engine's threads ──> socket
    loader thread  ──> loads, tells status and facts until the engine is ready

The parent sends requests only after it was told that the engine is ready. So a death before
that was not caused by a request, and the parent may try anew with those that wait.
"""

from __future__ import annotations

import functools
import queue
import threading
from collections.abc import Callable
from typing import get_args

from runtime_stub.engine.interface import AnyEngine, AnyTicket
from runtime_stub.engine.messages import (
    LAST_EVENTS,
    AnyRequest,
    ChoiceEnd,
    Event,
    Failed,
    ModelFacts,
    PromptRead,
    Reasoning,
    Status,
    Text,
    ToolCall,
)
from runtime_stub.engine.wire import Cancel, Close, Connection, Frame, Ping, Start, WireError
from runtime_stub.errors import EngineError, PackChangedError, SatchelError

Load = Callable[[Start, Callable[[float], None]], AnyEngine]
"""Makes the engine that a Start asks for, telling how far it is (from 0 to 1) where making it
takes long before it starts to load. Raises SatchelError."""
Send = Callable[[Event, int], None]
"""Sends an event of a request. Raises WireError."""

_REQUESTS = get_args(AnyRequest)
_OF_STEPS = frozenset((PromptRead, Text, Reasoning, ToolCall, ChoiceEnd))
"""Events that the steps of generating bring forth, and nothing else does."""
_LOOK = 0.1
"""Seconds between looks at the progress of loading."""
_FLUSH_SECONDS = 5.0
_CLOSE_SECONDS = 5.0


def run_engine(
    connection: Connection, load: Load, start: Start | None = None, *, flushes: bool = False
) -> int:
    """Serve the parent at the other end until it says Close or is gone. What to load, its first
    frame says; or `start`, where that is known before. What the engine says piece by piece is
    gathered if it `flushes` the connection after each step.

    Returns the exit code: 0, or that of the error which ended the engine; PackChangedError's
    tells the parent not to start another. Threads may still be at work in native code.
    """
    return _Child(connection, load, flushes=flushes).run(start)


class _Child:
    def __init__(self, connection: Connection, load: Load, *, flushes: bool) -> None:
        self._connection = connection
        self._send_later: Send = connection.gather if flushes else connection.send
        self._load = load
        self._engine: AnyEngine | None = None
        self._facts: ModelFacts | None = None
        self._changed = False
        self._lock = threading.Lock()
        self._tickets: dict[int, AnyTicket | None] = {}
        """Of every request without its last event; None while it is being submitted."""
        self._ends: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        """The exit code, when it is time; None when nobody is left to be told anything."""

    def run(self, start: Start | None) -> int:
        if start is not None:
            self._begin(start)
        reader = threading.Thread(target=self._read, args=(start,), name="reader", daemon=True)
        reader.start()
        code = self._ends.get()
        if code is None:
            return 0
        self._connection.finish(_FLUSH_SECONDS)
        return code

    def _begin(self, start: Start) -> None:
        threading.Thread(target=self._start, args=(start,), name="loader", daemon=True).start()

    def _read(self, start: Start | None) -> None:
        try:
            if start is None:
                frame = self._connection.receive()
                if frame.kind is not Start:
                    raise WireError(f"a {frame.kind.__name__} came before the start")
                self._begin(frame.message())
            while True:
                self._take(self._connection.receive())
        except EOFError:
            self._ends.put(None)
        except WireError:
            self._ends.put(WireError.exit_code)

    def _take(self, frame: Frame) -> None:
        if frame.kind is Close:
            # Not here: that the parent is gone must be noticed meanwhile.
            threading.Thread(target=self._close, name="closer", daemon=True).start()
        elif frame.kind is Ping:
            self._connection.send(Ping())
        elif frame.kind is Cancel:
            with self._lock:
                ticket = self._tickets.get(frame.request)
            if ticket is not None:
                ticket.cancel()
        else:
            self._submit(frame)

    def _submit(self, frame: Frame) -> None:
        engine, identity = self._engine, frame.request
        if engine is None or frame.kind not in _REQUESTS:
            raise WireError(f"a {frame.kind.__name__} came, and is not expected now")
        try:
            request: AnyRequest = frame.message()
        except WireError as error:
            self._connection.send(Failed("prompt", error.message), identity)
            return
        with self._lock:
            self._tickets[identity] = None
        ticket = engine.submit(request, functools.partial(self._on_event, engine, identity))
        with self._lock:
            if identity in self._tickets:
                self._tickets[identity] = ticket

    def _on_event(self, engine: AnyEngine, identity: int, event: Event) -> None:
        of_step = type(event) in _OF_STEPS
        failed = not of_step and self._tell_state(engine)
        send: Send = self._send_later if of_step else self._connection.send
        try:
            send(event, identity)
        except WireError as error:
            self._connection.send(Failed("engine", f"the answer is lost: {error}"), identity)
            with self._lock:
                ticket = self._tickets.get(identity)
            if ticket is not None:
                ticket.cancel()
        if not of_step and isinstance(event, LAST_EVENTS):
            self._note_end(identity, event, failed=failed)

    def _tell_state(self, engine: AnyEngine) -> bool:
        """Tell the parent whether the engine has failed, and new facts; whether it has."""
        failed = engine.status.state == "failed"
        if failed:
            # It will not answer again: further requests shall wait for the next process.
            self._tell(Status("loading"))
        self._tell_facts(engine)
        return failed

    def _note_end(self, identity: int, event: Event, *, failed: bool) -> None:
        self._changed |= isinstance(event, Failed) and event.kind == "changed"
        with self._lock:
            self._tickets.pop(identity, None)
            idle = not self._tickets
        if idle and failed:
            self._ends.put((PackChangedError if self._changed else EngineError).exit_code)

    def _start(self, start: Start) -> None:
        try:
            engine = self._load(start, lambda done: self._tell(Status("loading", done)))
            progress = -1.0
            while not engine.wait_ready(_LOOK):
                if engine.status.progress != progress:
                    progress = engine.status.progress
                    self._tell(Status("loading", progress))
        except SatchelError as error:
            self._fail(str(error), error.exit_code)
        except Exception as error:  # noqa: BLE001  (reported, not lost with the thread)
            self._fail(f"the engine failed to start: {error!r}", EngineError.exit_code)
        else:
            self._tell_facts(engine)
            self._engine = engine
            self._tell(engine.status)

    def _fail(self, message: str, code: int) -> None:
        self._tell(Status("failed", message=message))
        self._ends.put(code)

    def _close(self) -> None:
        if self._engine is not None:
            self._engine.close(_CLOSE_SECONDS)
        self._ends.put(0)

    def _tell(self, status: Status) -> None:
        self._connection.send(status)

    def _tell_facts(self, engine: AnyEngine) -> None:
        facts = engine.facts
        if facts is not None and facts is not self._facts:
            self._facts = facts
            self._connection.send(facts)
