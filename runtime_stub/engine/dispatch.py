"""Requests on their way to a process that comes and goes, and events on their way back.

    whoever asks ──> held until the engine is ready ──> the process
    sinks        <── what the process says          <──┘

What a process was given dies with it; what is held here waits for the next one.
"""

from __future__ import annotations

import time
from typing import get_args

from runtime_stub.engine.crowd import too_many
from runtime_stub.engine.messages import (
    LAST_EVENTS,
    EngineSettings,
    Event,
    Failed,
    Finished,
    ModelFacts,
    Status,
    Usage,
)
from runtime_stub.engine.pending import Pending, Register
from runtime_stub.engine.presence import Presence
from runtime_stub.engine.wire import Cancel, Frame, Ping, WireError
from runtime_stub.engine.worker import HungError

_MORE = frozenset(get_args(Event)) - frozenset(LAST_EVENTS)
"""Events that others follow."""


class Dispatch:
    """Safe to use from any thread."""

    def __init__(self, settings: EngineSettings, presence: Presence, requests: Register) -> None:
        """`requests` are those that it owes an answer."""
        self._settings = settings
        self._presence = presence
        self._requests = requests
        self._lock = presence.lock
        self.facts: ModelFacts | None = None
        """What the model is and how it runs; None until it was ready for the first time."""

    # Whoever asks

    def take_in(self, entry: Pending) -> Failed | None:
        """Owe a request an answer, and hand it over as soon as there is a process for it; or why
        that is refused."""
        presence = self._presence
        with self._lock:
            refusal = presence.refusal or too_many(
                entry.slots, self._requests.slots, self._settings
            )
            if refusal is not None:
                return refusal
            self._requests.add(entry)
            presence.expect()
            if presence.status.state == "ready":
                self._hand_over(entry)
        return None

    def cancel(self, entry: Pending) -> None:
        """Nobody wants the answer any more."""
        with self._lock:
            if entry not in self._requests:
                return
            if entry.sent:
                if self._presence.worker is not None:
                    self._presence.worker.say(Cancel(), entry.identity)
                return
            self._requests.remove(entry)
        entry.send(Finished("cancelled", Usage(0, 0, 0, 0.0, 0.0)))

    # Whoever hears what the process says

    def take(self, frame: Frame) -> None:
        """Pass it on. Raises WireError for what it has no business to say."""
        message = frame.message()
        if frame.kind in _MORE:
            # One of many: finding its request is a single step, for which no lock is needed.
            entry = self._requests.find(frame.request, remove=False)
            if entry is not None and not entry.send(message):
                self.cancel(entry)
        elif frame.kind in LAST_EVENTS:
            self._end_request(frame.request, message)
        elif isinstance(message, ModelFacts):
            self.facts = message
        elif isinstance(message, Status):
            self._note(message)
        elif not isinstance(message, Ping):
            raise WireError(f"a {frame.kind.__name__} came from the engine")

    def see_overdue(self) -> None:
        """Raise HungError if a request should have been given up there, long ago: then the
        process answers, but the thread that works for it does not."""
        # One step may take long: as much again as the whole request may.
        late = time.monotonic() - self._settings.timeout
        with self._lock:
            overdue = any(entry.is_late(late) for entry in self._requests.in_flight)
        if overdue:
            raise HungError("the engine did not get on with a request and was ended")

    def expire(self) -> None:
        """Give up what waited here for too long; the process looks after what it has."""
        with self._lock:
            late = self._requests.drop_late(time.monotonic())
        for entry in late:
            entry.send(Failed("timeout", "the engine was not ready in time", "Ask again later"))

    def fail_in_flight(self, event: Failed) -> None:
        """Tell those whose answers died with a process."""
        with self._lock:
            lost = self._requests.drop(self._requests.in_flight)
        for entry in lost:
            entry.send(self._presence.refusal or event)

    def fail_all(self) -> None:
        """Tell everybody who waits that there is no engine any more."""
        with self._lock:
            rest = self._requests.drop_all()
            refusal = self._presence.refusal or Failed("engine", self._presence.status.message)
        for entry in rest:
            entry.send(refusal)

    def _end_request(self, request: int, last: Event) -> None:
        with self._lock:
            entry = self._requests.find(request, remove=True)
            self._presence.note_use()
        if entry is not None:
            entry.send(last)
        self._presence.unload_if_idle()  # at once, where it may not be idle at all
        self._presence.leave_if_done()

    def _note(self, status: Status) -> None:
        presence = self._presence
        if status.state == "failed":
            presence.end(status, Failed("engine", status.message))
            self.fail_all()
            return
        with self._lock:
            if presence.refusal is None:
                presence.note(status)
                if status.state == "ready":
                    for entry in self._requests.held:
                        self._hand_over(entry, late=True)
                    presence.leave_if_done()
        self.expire()

    def _hand_over(self, entry: Pending, *, late: bool = False) -> None:
        """Give a request to the process; to one that is leaving only what waited for it."""
        presence = self._presence
        if presence.leaving and not late:
            return
        if presence.worker is not None and not entry.sent:
            entry.sent = True
            presence.worker.give(entry.frame)
            entry.frame = bytearray()
