"""Keeps an engine's process alive: starts it, listens to it, and starts another when it ends."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

from runtime_stub.engine.dispatch import Dispatch
from runtime_stub.engine.loan import EventLoop
from runtime_stub.engine.messages import Failed, Status
from runtime_stub.engine.presence import Presence
from runtime_stub.engine.residence import Residence
from runtime_stub.engine.wire import Start, WireError
from runtime_stub.engine.worker import Begun, HungError, StartProcess, Worker, begin
from runtime_stub.errors import PackChangedError

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
LOOK = 1.0
"""Seconds between looks at the requests that wait for the engine."""
GRACE = 2.0
"""Seconds that a process gets to end before it is made to."""
_CHANGED = Failed("changed", PackChangedError.meaning, "Start it again")


class Supervisor(threading.Thread):
    """Ends when there is no engine any more. A process ends with the thread that started it: one
    that stays until the end."""

    def __init__(
        self,
        start: StartProcess,
        first: Start,
        dispatch: Dispatch,
        presence: Presence,
        *,
        residence: Residence | None,
        begun: Begun | None,
        on_stop: Callable[[str], None],
    ) -> None:
        """Each process is told `first`; what it says goes to `dispatch`. It is admitted by the
        `residence`, if there is one. `begun` is the first process, where there is one already."""
        super().__init__(name="engine", daemon=True)
        self._start_process = start
        self._first = first
        self._dispatch = dispatch
        self._presence = presence
        self._residence = residence
        self._begun = begun
        self._on_stop = on_stop
        self.loop: EventLoop | None = None
        """Reads what the process says, if this thread does not."""

    def listen_in(self, loop: EventLoop | None) -> None:
        """From soon on, what the process says is read in this loop; in this thread for None.
        From any thread."""
        presence = self._presence
        with presence.lock:
            self.loop = loop
            if loop is None and presence.worker is not None:
                presence.worker.take_back()

    def finish(self, timeout: float) -> None:
        """Wait for the end of the process, which was asked to; after `timeout` seconds it is told
        to, then killed. From any thread."""
        if threading.current_thread() is self:
            return
        self.join(timeout)
        for force in (Worker.terminate, Worker.kill, Worker.break_off):
            with self._presence.lock:
                worker = self._presence.worker
            if worker is not None and self.is_alive():
                force(worker)
                self.join(GRACE)

    def run(self) -> None:
        """The thread's work."""
        presence, failures = self._presence, 0
        try:
            while self._await_turn():
                useful, reason = self._live()
                if not reason:
                    failures = 0
                    self._leave()
                    continue
                failures = 1 if useful else failures + 1
                if presence.refusal is None:
                    with contextlib.suppress(Exception):
                        self._on_stop(reason)
                    self._pause(failures)
        except Exception as error:  # noqa: BLE001  (a bug here must end the requests, visibly)
            message = f"the engine's supervision failed: {error!r}"
            presence.end(Status("failed", message=message), Failed("engine", message))
        if self._begun is not None:  # closed before it was its turn
            Worker(self._begun, self._first).reap(0.0)
        self._leave()
        self._dispatch.fail_all()

    def _await_turn(self) -> bool:
        """Wait until the model is wanted and has room; False when there is no engine any more."""
        presence, residence = self._presence, self._residence
        while presence.refusal is None:
            with presence.lock:
                wanted = presence.is_wanted()
                if wanted:
                    presence.expect()
            if not wanted:
                self._leave()
                presence.wait_until_wanted()
            elif residence is None or residence.enter(presence, LOOK):
                return presence.refusal is None
            self._dispatch.expire()
        return False

    def _leave(self) -> None:
        if self._residence is not None:
            self._residence.leave(self._presence)
        self._presence.leave()

    def _live(self) -> tuple[bool, str]:
        """One process from its start to its end: whether it got to work, and how it ended;
        in no words if it was unloaded."""
        try:
            begun, self._begun = self._begun or begin(self._start_process), None
        except OSError as error:
            return False, f"the engine can't be started: {error.strerror}"
        worker = Worker(begun, self._first)
        self._presence.attach(worker)
        patience, reason = GRACE, ""
        try:
            worker.listen(LOOK, self._dispatch.take, self._look, lambda: self.loop)
        except WireError:
            patience = 0.0
        except HungError as error:
            patience, reason = 0.0, str(error)
        finally:
            self._presence.fall_silent()
            code = worker.reap(patience)
            left = self._presence.detach()
        return worker.worked, "" if left else self._lament(code, reason)

    def _look(self) -> None:
        """Nothing came for a while. While requests are held here, their time is watched here.

        Raises HungError.
        """
        self._dispatch.see_overdue()
        self._dispatch.expire()
        self._presence.unload_if_idle()

    def _lament(self, code: int, reason: str) -> str:
        """Tell those whose answers died with the process; what happened, in words, `reason` if
        that is known."""
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        reason = reason or f"the engine stopped unexpectedly ({how})"
        event = Failed("engine", reason, "Ask again; it is starting anew")
        if code == PackChangedError.exit_code and self._presence.refusal is None:
            event = _CHANGED
            self._presence.end(Status("failed", message=f"{event.message}. {event.hint}"), event)
        self._dispatch.fail_in_flight(event)
        return reason

    def _pause(self, failures: int) -> None:
        doublings = min(failures - 2, 20)
        seconds = 0.0 if doublings < 0 else min(LONGEST_PAUSE, FIRST_PAUSE * 2**doublings)
        until = time.monotonic() + seconds
        while self._presence.refusal is None and (left := until - time.monotonic()) > 0:
            self._presence.wait_for_the_end(min(left, LOOK))
            self._dispatch.expire()
