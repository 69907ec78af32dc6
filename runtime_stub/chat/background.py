"""An engine that is there at once: what makes it, and extracts the model first, takes its time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

from runtime_stub.engine.interface import AnyEngine, AnyTicket, Sink, answer
from runtime_stub.engine.messages import (
    AnyRequest,
    Event,
    Failed,
    Finished,
    ModelFacts,
    Status,
    Usage,
)
from runtime_stub.errors import EngineError, SatchelError

OnProgress = Callable[[float], None]


class _Ticket:
    """Handle to a request that may not have reached its engine yet."""

    def __init__(self, request: AnyRequest, sink: Sink) -> None:
        self.request = request
        self.sink = sink
        self.cancelled = False
        self._real: AnyTicket | None = None

    def attach(self, real: AnyTicket) -> None:
        """It has reached its engine."""
        self._real = real
        if self.cancelled:
            real.cancel()

    def cancel(self) -> None:
        self.cancelled = True
        if self._real is not None:
            self._real.cancel()


class BackgroundEngine:
    """Makes an engine in a thread of its own; requests that come before wait for it."""

    def __init__(self, make: Callable[[OnProgress], AnyEngine]) -> None:
        """Start `make`, which tells how far it is with what comes before loading. What it
        raises is what every request fails with."""
        self._make = make
        self._engine: AnyEngine | None = None
        self._status = Status("loading")
        self.error: SatchelError | None = None
        """What making the engine, or loading its model, ended with."""
        self.extracting = False
        """Whether the model is being extracted, and not loaded yet."""
        self._lock = threading.Lock()
        self._made = threading.Event()
        self._waiting: list[_Ticket] = []
        threading.Thread(target=self._run, name="maker", daemon=True).start()

    @property
    def status(self) -> Status:
        """What the engine is doing right now."""
        return self._status if self._engine is None else self._engine.status

    @property
    def facts(self) -> ModelFacts | None:
        """What the model is and how it runs; None until it is ready."""
        return None if self._engine is None else self._engine.facts

    def wait_ready(self, timeout: float | None = None) -> bool:
        """As `AnyEngine.wait_ready`; raises what making the engine raised."""
        started = time.monotonic()
        if not self._made.wait(timeout):
            return False
        if self._engine is None:
            raise self.error or EngineError(self._status.message)
        left = None if timeout is None else max(0.0, timeout - (time.monotonic() - started))
        try:
            return self._engine.wait_ready(left)
        except SatchelError as error:
            self.error = error
            raise

    def submit(self, request: AnyRequest, sink: Sink) -> AnyTicket:
        """Queue a request, without ever waiting."""
        ticket = _Ticket(request, sink)
        with self._lock:
            if not self._made.is_set():
                self._waiting.append(ticket)
                return ticket
        self._pass_on(ticket)
        return ticket

    def answer(self, request: AnyRequest) -> Iterator[Event]:
        """The events of one request. Leaving the loop early cancels it."""
        return answer(self, request)

    def close(self, timeout: float = 10.0) -> None:
        """Stop and release the model, if there is one already."""
        if self._made.is_set() and self._engine is not None:
            self._engine.close(timeout)

    def _run(self) -> None:
        try:
            self._engine = self._make(self._on_progress)
        except SatchelError as error:
            self.error = error
        except Exception as error:  # noqa: BLE001  (reported, not lost with the thread)
            self.error = EngineError(f"the engine failed to start: {error!r}")
        if self.error is not None:
            self._status = Status("failed", message=str(self.error))
        with self._lock:
            self._made.set()
            waiting, self._waiting = self._waiting, []
        for ticket in waiting:
            self._pass_on(ticket)

    def _on_progress(self, fraction: float) -> None:
        self.extracting = fraction < 1
        self._status = Status("loading", fraction)

    def _pass_on(self, ticket: _Ticket) -> None:
        if ticket.cancelled:
            ticket.sink(Finished("cancelled", Usage(0, 0, 0, 0.0, 0.0)))
        elif self._engine is None:
            error = self.error or EngineError(self._status.message)
            ticket.sink(Failed("engine", error.message, error.hint))
        else:
            ticket.attach(self._engine.submit(ticket.request, ticket.sink))
