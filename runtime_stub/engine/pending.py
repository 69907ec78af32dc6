"""Requests that another process answers, as the asking process keeps them."""

from __future__ import annotations

import threading
from collections.abc import Callable

from runtime_stub.engine.interface import Sink
from runtime_stub.engine.messages import LAST_EVENTS, Event

_LAST = frozenset(LAST_EVENTS)


class Pending:
    """A request without its last event. That is sent once, whichever thread does it."""

    def __init__(
        self, identity: int, frame: bytearray, sink: Sink, deadline: float | None, slots: int
    ) -> None:
        self.identity = identity
        self.frame = frame
        """The request as it is sent."""
        self.deadline = deadline
        """When it is given up if it still waits here, on the monotonic clock."""
        self.slots = slots
        """How many it is answered in, as `crowd` counts them."""
        self.sent = False
        """Whether the process was given it. Guarded by the engine's lock."""
        self._sink = sink
        self._ended = False
        self._lock = threading.RLock()  # a sink may cancel, and that may send

    def is_late(self, now: float) -> bool:
        """Whether its time is up at `now`."""
        return self.deadline is not None and self.deadline < now

    def send(self, event: Event) -> bool:
        """Pass an event on; nothing follows a last one. False when the sink raises."""
        with self._lock:
            if self._ended:
                return True
            self._ended = type(event) in _LAST
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


class Register:
    """The requests that an engine still owes an answer. Guard it with the engine's lock, and
    send events outside of that."""

    def __init__(self) -> None:
        self._entries: dict[int, Pending] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, entry: Pending) -> bool:
        return entry.identity in self._entries

    def add(self, entry: Pending) -> None:
        """Take a request in."""
        self._entries[entry.identity] = entry

    def find(self, identity: int, *, remove: bool) -> Pending | None:
        """The request of that number; with `remove`, it is not owed an answer any more."""
        return (self._entries.pop if remove else self._entries.get)(identity, None)

    def remove(self, entry: Pending) -> None:
        """It is not owed an answer any more."""
        self._entries.pop(entry.identity, None)

    @property
    def slots(self) -> list[int]:
        """How many each is answered in, in the order in which they came."""
        return [entry.slots for entry in self._entries.values()]

    @property
    def held(self) -> list[Pending]:
        """Those that no process was given yet."""
        return [entry for entry in self._entries.values() if not entry.sent]

    @property
    def in_flight(self) -> list[Pending]:
        """Those that a process works on."""
        return [entry for entry in self._entries.values() if entry.sent]

    def drop(self, entries: list[Pending]) -> list[Pending]:
        """Remove and return them."""
        for entry in entries:
            self.remove(entry)
        return entries

    def drop_late(self, now: float) -> list[Pending]:
        """Remove and return those held whose time is up."""
        return self.drop([entry for entry in self.held if entry.is_late(now)])

    def drop_all(self) -> list[Pending]:
        """Remove and return everything."""
        return self.drop(list(self._entries.values()))
