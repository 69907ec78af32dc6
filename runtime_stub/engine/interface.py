"""What every engine offers to the faces, in whichever process it runs."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from typing import Protocol

from runtime_stub.engine.messages import LAST_EVENTS, AnyRequest, Event, ModelFacts, Status

Sink = Callable[[Event], None]
"""Takes the events of one request. Called from the engine's threads; must return quickly."""


class AnyTicket(Protocol):
    """Handle to a submitted request."""

    def cancel(self) -> None:
        """Stop soon; the request still ends with one of LAST_EVENTS."""


class AnyEngine(Protocol):
    """Answers requests with one model. Safe to use from any thread."""

    @property
    def status(self) -> Status:
        """What the engine is doing right now."""

    @property
    def facts(self) -> ModelFacts | None:
        """What the model is and how it runs; None until it is ready."""

    def wait_ready(self, timeout: float | None = None) -> bool:
        """Wait until loading has ended; False when `timeout` seconds pass first.

        Raises EngineError when the model could not be loaded.
        """

    def submit(self, request: AnyRequest, sink: Sink) -> AnyTicket:
        """Queue a request, without ever waiting. `sink` gets its events in order, exactly one
        of LAST_EVENTS at the end."""

    def answer(self, request: AnyRequest) -> Iterator[Event]:
        """The events of one request. Leaving the loop early cancels it."""

    def close(self, timeout: float = 10.0) -> None:
        """Stop and release the model; requests in flight fail."""


def answer(engine: AnyEngine, request: AnyRequest) -> Iterator[Event]:
    """`AnyEngine.answer` for an engine that has `submit`."""
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    ticket = engine.submit(request, events.put)
    try:
        while True:
            event = events.get()
            yield event
            if isinstance(event, LAST_EVENTS):
                return
    finally:
        ticket.cancel()
