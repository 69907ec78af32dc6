"""A request that another process answers, as the asking process keeps it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from runtime_stub.engine.interface import Sink
from runtime_stub.engine.messages import LAST_EVENTS, Event


class Pending:
    """A request without its last event. That is sent once, whichever thread does it."""

    def __init__(self, identity: int, frame: bytearray, sink: Sink, deadline: float | None) -> None:
        self.identity = identity
        self.frame = frame
        """The request as it is sent."""
        self.deadline = deadline
        """When it is given up if it still waits here, on the monotonic clock."""
        self.sent = False
        """Whether the process was given it. Guarded by the engine's lock."""
        self._sink = sink
        self._ended = False
        self._lock = threading.RLock()  # a sink may cancel, and that may send

    def send(self, event: Event) -> bool:
        """Pass an event on; nothing follows a last one. False when the sink raises."""
        with self._lock:
            if self._ended:
                return True
            self._ended = isinstance(event, LAST_EVENTS)
            try:
                self._sink(event)
            except Exception:  # noqa: BLE001  (a face's mistake must not end all others' requests)
                return False
        return True


class RemoteTicket:
    """Handle to a submitted request."""

    def __init__(self, cancel: Callable[[], None]) -> None:
        self._cancel = cancel

    def cancel(self) -> None:
        """Stop soon; the request still ends with an event."""
        self._cancel()
