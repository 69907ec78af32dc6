"""A request on its way through the engine."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from runtime_stub.engine.interface import Sink
from runtime_stub.engine.messages import LAST_EVENTS, AnyRequest, Event, Mix, Request
from runtime_stub.engine.reading import Reading

_LAST = frozenset(LAST_EVENTS)


@dataclass(eq=False)
class Job:
    """A request with whom to tell, and what the intake made of it."""

    request: AnyRequest
    sink: Sink
    on_end: Callable[[Job], None] | None = None
    """Called before the last event is sent."""
    deadline: float = math.inf
    """When it is given up, on the monotonic clock."""
    tokens: list[int] = field(default_factory=list)
    """The prompt."""
    reading: Reading = field(default_factory=Reading)
    """How the answer's text is to be understood."""
    grammar: str | None = None
    """What the answer must follow: the request's own, or that of its tools."""
    mix: Mix = ()
    """The adapters it is answered with."""
    cancelled: bool = False
    """Set from any thread; seen at the next step."""
    _ended: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def generation(self) -> Request:
        """The request of a job that generates text."""
        if not isinstance(self.request, Request):
            raise TypeError(f"{type(self.request).__name__} generates nothing")
        return self.request

    def send(self, event: Event) -> None:
        """Pass an event on. Nothing follows a last event, whichever thread sends it; a sink
        that raises hurts its own request only."""
        if type(event) in _LAST:  # an `isinstance` looks at each of them
            with self._lock:
                if self._ended:
                    return
                self._ended = True
            if self.on_end is not None:
                self.on_end(self)
        elif self._ended:
            return
        try:
            self.sink(event)
        except Exception:  # noqa: BLE001  (a face's mistake must not end all others' requests)
            self.cancelled = True


class Ticket:
    """Handle to a submitted request."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def cancel(self) -> None:
        """Stop at the next step; the request still ends with an event."""
        self._job.cancelled = True
