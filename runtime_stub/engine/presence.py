"""When a model is in the memory of another process, and when not.

    unloaded ──> loading ──> ready ──> unloaded     failed, closed: for good
       wanted     process started      nothing in flight

It is wanted while somebody waits for an answer, and otherwise as its Stay says, until it is told
to come or to leave.
"""

from __future__ import annotations

import threading
import time

from runtime_stub.engine.messages import Failed, Status
from runtime_stub.engine.pending import Register
from runtime_stub.engine.residence import Stay
from runtime_stub.engine.worker import Worker


class Presence:
    """Safe to use from any thread. To a residence it is the tenant."""

    def __init__(self, stay: Stay, requests: Register) -> None:
        """`requests` are those that want it."""
        self.need = stay.need
        """Bytes of memory it takes."""
        self.lock = threading.Condition()
        """Guards all that follows, and the requests; notified when the status changes."""
        self.worker: Worker | None = None
        """The process, while there is one."""
        self.leaving = False
        """Whether the process ends when nothing is in flight; what comes now waits for the next."""
        self.refusal: Failed | None = None
        """What every request gets once there is no engine any more, nor will be."""
        self._wanted = not stay.lazy
        """Whether it shall be there even if nobody asks anything."""
        self.status = Status("loading" if self._wanted else "unloaded")
        self._requests = requests
        self._usual = stay.idle
        self._idle = stay.idle
        self._last_used = time.monotonic()
        self._loads = 0
        """How often it has become ready."""
        self._closing = False

    # Whoever asks

    @property
    def last_used(self) -> float:
        """When the last request ended, on the monotonic clock; infinite while there is one."""
        with self.lock:
            return float("inf") if self._requests else self._last_used

    @property
    def unloads_in(self) -> float | None:
        """Seconds until it leaves if nobody asks anything; None for never."""
        with self.lock:
            if self._idle is None:
                return None
            busy = bool(self._requests)
            return self._idle if busy else self._last_used + self._idle - time.monotonic()

    def load(self) -> None:
        """It is wanted, even if nobody asks anything."""
        with self.lock:
            self._wanted = True
            self.expect()

    def unload(self) -> None:
        """It is to leave as soon as nothing is in flight, until somebody asks again."""
        with self.lock:
            if not self.leaving:  # how long it may be idle was said of this stay
                self._idle = self._usual
            self.leaving = self.worker is not None or self.status.state == "loading"
            self._wanted = False
            self.leave_if_done()

    def unload_after(self, seconds: float | None) -> None:
        """It is to leave when it had nothing to do for so long; None for never. Once it has left,
        its Stay says so again."""
        with self.lock:
            self._idle = seconds

    def load_and_wait(self, timeout: float | None) -> Status | None:
        """Want it, and wait until loading has ended: what that came to, None when `timeout`
        seconds pass first."""
        with self.lock:
            loads = self._loads
            self.load()

            def is_settled() -> bool:
                # It may have come and gone before this thread sees it.
                return self._loads > loads or self.status.state not in ("unloaded", "loading")

            if not self.lock.wait_for(is_settled, timeout):
                return None
            return self.status if self._loads == loads else Status("ready", 1.0)

    def close(self, message: str) -> None:
        """There is no engine from now on; the process is asked to end."""
        with self.lock:
            self._closing = True
            self.end(Status("closed", message=message), Failed("closed", message))
            if self.worker is not None:
                self.worker.ask_to_end()

    # Whoever passes requests and events on

    def expect(self) -> None:
        """Somebody wants it."""
        with self.lock:
            if self.status.state == "unloaded":
                self._set(Status("loading"))

    def note(self, status: Status) -> None:
        """The process says how far it is."""
        with self.lock:
            self._set(status)
            if status.state == "ready":
                self._loads += 1
                self.note_use()

    def note_use(self) -> None:
        """It is idle from now on, if nothing else is in flight. To be called with the lock."""
        self._last_used = time.monotonic()

    def end(self, status: Status, refusal: Failed) -> None:
        """There is no engine from now on, unless that was known already."""
        with self.lock:
            if self.refusal is None:
                self.refusal = refusal
                self._set(status)

    def leave_if_done(self) -> None:
        """End a process that is to leave, once nothing is in flight there."""
        with self.lock:
            if not self.leaving or self.worker is None or self.status.state != "ready":
                return
            if not self._requests.in_flight:
                self._set(Status("loading" if self._requests else "unloaded"))
                self.worker.ask_to_end()

    def unload_if_idle(self) -> None:
        """Have it leave if it had nothing to do for long."""
        with self.lock:
            idle = self._idle
            since = time.monotonic() - self._last_used
            if idle is not None and since >= idle and not self._requests:
                self.unload()

    # Whoever starts the process and watches it

    def is_wanted(self) -> bool:
        """Whether there is to be a process."""
        return self._wanted or bool(self._requests)

    def wait_until_wanted(self) -> None:
        """Wait until there is to be a process, or never will be."""
        with self.lock:
            self.lock.wait_for(lambda: self.is_wanted() or self.refusal is not None)

    def wait_for_the_end(self, seconds: float) -> None:
        """Wait for so long, or until there is no engine any more."""
        with self.lock:
            self.lock.wait_for(lambda: self.refusal is not None, seconds)

    def attach(self, worker: Worker) -> None:
        """There is a process from now on."""
        with self.lock:
            self.worker = worker
            if self._closing:
                worker.ask_to_end()

    def fall_silent(self) -> None:
        """The process says nothing any more."""
        with self.lock:
            if self.refusal is None and self.status.state != "unloaded":
                self._set(Status("loading"))

    def detach(self) -> bool:
        """The process has ended; whether it left as it was told to, and owes nobody anything."""
        with self.lock:
            self.worker = None
            leaving, self.leaving = self.leaving, False
            return leaving and not self._requests.in_flight

    def leave(self) -> None:
        """It is not in memory any more; if nobody wants it, neither will it be."""
        with self.lock:
            self.leaving = False
            if self.refusal is None and not self.is_wanted():
                self._set(Status("unloaded"))

    def _set(self, status: Status) -> None:
        self.status = status
        self.lock.notify_all()
