"""An engine in a process of its own: an abort in native code costs the requests in flight.

    submit ──> held until the engine is ready ──> writer thread ──┐ socket  process.py
    sinks  <── supervisor thread: starts, listens, starts anew <──┤
    sinks  <── event loop, where there is one (`listen_in`)    <──┘

A process that ends is replaced at once, and again after growing pauses while its successors
end before they get to work. A model that can't be loaded or was changed is not tried again.

A model that is not wanted has no process: before its first request if it is lazy, after it was
unloaded, and while others use the memory it needs (`residence`). The next request starts one.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import get_args

from runtime_stub.engine.interface import Sink, answer
from runtime_stub.engine.loan import EventLoop
from runtime_stub.engine.messages import (
    LAST_EVENTS,
    AnyRequest,
    EngineSettings,
    Event,
    Failed,
    Finished,
    ModelFacts,
    Status,
    Usage,
)
from runtime_stub.engine.pending import Pending, Register, RemoteTicket
from runtime_stub.engine.residence import Stay
from runtime_stub.engine.wire import Cancel, Frame, Ping, Start, WireError, encode
from runtime_stub.engine.worker import Begun, HungError, StartProcess, Worker, begin
from runtime_stub.errors import EngineError, PackChangedError

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
_LOOK = 1.0
"""Seconds between looks at the requests that wait for the engine."""
_GRACE = 2.0
"""Seconds that a process gets to end before it is made to."""
_MORE = frozenset(get_args(Event)) - frozenset(LAST_EVENTS)
"""Events that others follow."""
_CLOSED = "the engine is shutting down"
_CHANGED = Failed("changed", PackChangedError.meaning, "Start it again")


class RemoteEngine:
    """Answers requests with a model that another process holds. Safe to use from any thread.

    Its status is "loading" again while a process that died is replaced; requests wait then, as
    they do while the model is "unloaded".
    """

    def __init__(
        self,
        start: StartProcess,
        model: str,
        settings: EngineSettings,
        *,
        on_stop: Callable[[str], None] = lambda _: None,
        stay: Stay | None = None,
        begun: Begun | None = None,
    ) -> None:
        """Start the process, and loading the pack's `model` there, in the background; `stay`
        may say that it comes later, and leaves again. With `begun`, the first is that one; what
        it knows to load must be the same.

        `on_stop` is told, in words, of each process that ended unasked.
        """
        self._start_process = start
        self._begun = begun
        self._first = Start(model, settings)
        self._on_stop = on_stop
        self._stay = stay or Stay()
        self._changed = threading.Condition()
        """Guards all that follows; notified when the status changes."""
        self._wanted = not self._stay.lazy
        """Whether the model shall be in memory even if nobody asks anything."""
        self._leaving = False
        """Whether the process ends when nothing is in flight; what comes now waits for the next."""
        self._idle = self._stay.idle
        self._last_used = time.monotonic()
        self._status = Status("loading" if self._wanted else "unloaded")
        self._facts: ModelFacts | None = None
        self._refusal: Failed | None = None
        """What every request gets once there is no engine any more, nor will be."""
        self._loads = 0
        """How often the model has become ready."""
        self._closing = False
        self._requests = Register()
        self._identities = itertools.count(1)
        self._loop: EventLoop | None = None
        """Reads what the process says, if it is not the supervisor."""
        self._worker: Worker | None = None
        # The process ends with the thread that started it: one that stays until the end.
        self._supervisor = threading.Thread(target=self._supervise, name="engine", daemon=True)
        self._supervisor.start()

    @property
    def status(self) -> Status:
        """What the engine is doing right now."""
        return self._status

    @property
    def facts(self) -> ModelFacts | None:
        """What the model is and how it runs; None until it was ready for the first time."""
        return self._facts

    @property
    def need(self) -> int:
        """Bytes of memory the model takes."""
        return self._stay.need

    @property
    def last_used(self) -> float:
        """When the last request ended, on the monotonic clock; infinite while there is one."""
        with self._changed:
            return float("inf") if self._requests else self._last_used

    @property
    def unloads_in(self) -> float | None:
        """Seconds until the model is unloaded if nobody asks anything; None for never."""
        with self._changed:
            if self._idle is None:
                return None
            busy = bool(self._requests)
            return self._idle if busy else self._last_used + self._idle - time.monotonic()

    def load(self) -> None:
        """Bring the model into memory, in the background, without a request."""
        with self._changed:
            self._wanted = True
            self._expect()

    def unload(self) -> None:
        """Take the model out of memory as soon as nothing is in flight. Returns at once; the
        next request brings it back."""
        with self._changed:
            self._leaving = self._worker is not None or self._status.state == "loading"
            self._wanted = False
            self._leave_if_done()

    def unload_after(self, seconds: float | None) -> None:
        """Unload the model whenever it had nothing to do for so long; None for never."""
        with self._changed:
            self._idle = seconds

    def wait_ready(self, timeout: float | None = None) -> bool:
        """Load the model, and wait until that has ended; False when `timeout` seconds pass first.

        Raises EngineError when the model could not be loaded.
        """
        with self._changed:
            loads = self._loads
            self.load()

            def is_settled() -> bool:
                # It may have come and gone before this thread sees it.
                return self._loads > loads or self._status.state not in ("unloaded", "loading")

            if not self._changed.wait_for(is_settled, timeout):
                return False
            if self._loads == loads and self._status.state != "ready":
                raise EngineError(self._status.message)
        return True

    def submit(self, request: AnyRequest, sink: Sink) -> RemoteTicket:
        """Queue a request, without ever waiting. `sink` gets its events from the engine's
        threads, in order, one of LAST_EVENTS at the end; it must return quickly."""
        settings = self._first.settings
        deadline = time.monotonic() + settings.timeout if settings.timeout else None
        refusal: Failed | None = None
        frame = bytearray()
        identity = next(self._identities)
        try:
            frame = encode(request, identity)
        except WireError as error:
            refusal = Failed("prompt", f"the request can't be taken: {error}")
        entry = Pending(identity, frame, sink, deadline)
        with self._changed:
            waiting = len(self._requests) - settings.parallel
            if self._refusal is not None:
                refusal = self._refusal
            elif refusal is None and waiting >= settings.queue:
                refusal = Failed("busy", f"{waiting} requests are waiting already", "Ask later")
            elif refusal is None:
                self._requests.add(entry)
                self._expect()
                if self._status.state == "ready":
                    self._hand_over(entry)
        if refusal is not None:
            entry.send(refusal)
        return RemoteTicket(lambda: self._cancel(entry))

    def listen_in(self, loop: EventLoop | None) -> None:
        """Have sinks called in an event loop, from soon on, which saves a change of threads for
        each event; None has them called in a thread again. A loop that ends is left by itself."""
        with self._changed:
            self._loop = loop
            if loop is None and self._worker is not None:
                self._worker.take_back()

    def answer(self, request: AnyRequest) -> Iterator[Event]:
        """The events of one request. Leaving the loop early cancels it."""
        return answer(self, request)

    def close(self, timeout: float = 10.0) -> None:
        """End the process: asked to, after `timeout` seconds told to, then killed. Requests
        in flight fail at once."""
        self.listen_in(None)  # which may be waiting here
        with self._changed:
            self._closing = True
            if self._refusal is None:
                self._end(Status("closed", message=_CLOSED), Failed("closed", _CLOSED))
            if self._worker is not None:
                self._worker.ask_to_end()
        self._fail_all()
        if threading.current_thread() is self._supervisor:
            return
        self._supervisor.join(timeout)
        for force in (Worker.terminate, Worker.kill, Worker.break_off):
            with self._changed:
                worker = self._worker
            if worker is not None and self._supervisor.is_alive():
                force(worker)
                self._supervisor.join(_GRACE)

    # The supervisor's thread

    def _supervise(self) -> None:
        failures = 0
        try:
            while self._await_turn():
                useful, reason = self._live()
                if not reason:
                    failures = 0
                    self._leave()
                    continue
                failures = 1 if useful else failures + 1
                if self._refusal is None:
                    with contextlib.suppress(Exception):
                        self._on_stop(reason)
                    self._pause(failures)
        except Exception as error:  # noqa: BLE001  (a bug here must end the requests, visibly)
            message = f"the engine's supervision failed: {error!r}"
            with self._changed:
                self._end(Status("failed", message=message), Failed("engine", message))
        if self._begun is not None:  # closed before it was its turn
            Worker(self._begun, self._first).reap(0.0)
        self._leave()
        self._fail_all()

    def _await_turn(self) -> bool:
        """Wait until the model is wanted and has room; False when there is no engine any more."""
        residence = self._stay.residence
        while self._refusal is None:
            with self._changed:
                wanted = self._is_wanted
                if wanted:
                    self._expect()
            if not wanted:
                self._leave()
                with self._changed:
                    self._changed.wait_for(lambda: self._is_wanted or self._refusal is not None)
            elif residence is None or residence.enter(self, _LOOK):
                return self._refusal is None
            self._expire()
        return False

    @property
    def _is_wanted(self) -> bool:
        return self._wanted or bool(self._requests)

    def _leave(self) -> None:
        """The model is not in memory any more; if nobody wants it, neither will it be."""
        if self._stay.residence is not None:
            self._stay.residence.leave(self)
        with self._changed:
            self._leaving = False
            if self._refusal is None and not self._is_wanted:
                self._set(Status("unloaded"))

    def _live(self) -> tuple[bool, str]:
        """One process from its start to its end: whether it got to work, and how it ended;
        in no words if it was unloaded."""
        try:
            begun, self._begun = self._begun or begin(self._start_process), None
        except OSError as error:
            return False, f"the engine can't be started: {error.strerror}"
        worker = Worker(begun, self._first)
        with self._changed:
            self._worker = worker
            if self._closing:
                worker.ask_to_end()
        patience, reason = _GRACE, ""
        try:
            worker.listen(_LOOK, self._take, self._look, lambda: self._loop)
        except WireError:
            patience = 0.0
        except HungError as error:
            patience, reason = 0.0, str(error)
        finally:
            with self._changed:
                if self._refusal is None and self._status.state != "unloaded":
                    self._set(Status("loading"))
            code = worker.reap(patience)
            with self._changed:
                self._worker = None
                leaving, self._leaving = self._leaving, False
                lost = bool(self._requests.in_flight)
        return worker.worked, "" if leaving and not lost else self._lament(code, reason)

    def _look(self) -> None:
        """Nothing came for a while. While requests are held here, their time is watched here.

        Raises HungError.
        """
        self._see_overdue()
        self._expire()
        self._unload_if_idle()

    def _take(self, frame: Frame) -> None:
        message = frame.message()
        if frame.kind in _MORE:
            # One of many: finding its request is a single step, for which no lock is needed.
            entry = self._requests.find(frame.request, remove=False)
            if entry is not None and not entry.send(message):
                self._cancel(entry)
        elif frame.kind in LAST_EVENTS:
            self._end_request(frame.request, message)
        elif isinstance(message, ModelFacts):
            self._facts = message
        elif isinstance(message, Status):
            self._note(message)
        elif not isinstance(message, Ping):
            raise WireError(f"a {frame.kind.__name__} came from the engine")

    def _end_request(self, request: int, last: Event) -> None:
        with self._changed:
            entry = self._requests.find(request, remove=True)
            self._last_used = time.monotonic()
        if entry is not None:
            entry.send(last)
        self._leave_if_done()

    def _note(self, status: Status) -> None:
        with self._changed:
            if self._refusal is None and status.state == "failed":
                self._end(status, Failed("engine", status.message))
            elif self._refusal is None:
                self._set(status)
                if status.state == "ready":
                    self._loads += 1
                    self._last_used = time.monotonic()
                    for entry in self._requests.held:
                        self._hand_over(entry, late=True)
                    self._leave_if_done()
        if status.state == "failed":
            self._fail_all()
        else:
            self._expire()

    def _lament(self, code: int, reason: str) -> str:
        """Tell those whose answers died with the process; what happened, in words, `reason` if
        that is known."""
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        reason = reason or f"the engine stopped unexpectedly ({how})"
        event = Failed("engine", reason, "Ask again; it is starting anew")
        with self._changed:
            if code == PackChangedError.exit_code and self._refusal is None:
                event = _CHANGED
                self._end(Status("failed", message=f"{event.message}. {event.hint}"), event)
            lost = self._requests.drop(self._requests.in_flight)
        for entry in lost:
            entry.send(self._refusal or event)
        return reason

    def _pause(self, failures: int) -> None:
        doublings = min(failures - 2, 20)
        seconds = 0.0 if doublings < 0 else min(LONGEST_PAUSE, FIRST_PAUSE * 2**doublings)
        until = time.monotonic() + seconds
        while self._refusal is None and (left := until - time.monotonic()) > 0:
            with self._changed:
                self._changed.wait_for(lambda: self._refusal is not None, min(left, _LOOK))
            self._expire()

    # Any thread

    def _set(self, status: Status) -> None:
        self._status = status
        self._changed.notify_all()

    def _end(self, status: Status, refusal: Failed) -> None:
        """There is no engine from now on."""
        self._refusal = refusal
        self._set(status)

    def _expect(self) -> None:
        """The model is wanted."""
        if self._status.state == "unloaded":
            self._set(Status("loading"))

    def _leave_if_done(self) -> None:
        """End a process that is to leave, once nothing is in flight there."""
        with self._changed:
            if not self._leaving or self._worker is None or self._status.state != "ready":
                return
            if not self._requests.in_flight:
                self._set(Status("loading" if self._requests else "unloaded"))
                self._worker.ask_to_end()

    def _unload_if_idle(self) -> None:
        with self._changed:
            idle = self._idle
            since = time.monotonic() - self._last_used
            if idle is not None and since >= idle and not self._requests:
                self.unload()

    def _hand_over(self, entry: Pending, *, late: bool = False) -> None:
        """Give a request to the process; to one that is leaving only what waited for it."""
        if self._leaving and not late:
            return
        if self._worker is not None and not entry.sent:
            entry.sent = True
            self._worker.give(entry.frame)
            entry.frame = bytearray()

    def _cancel(self, entry: Pending) -> None:
        with self._changed:
            if entry not in self._requests:
                return
            if entry.sent:
                if self._worker is not None:
                    self._worker.say(Cancel(), entry.identity)
                return
            self._requests.remove(entry)
        entry.send(Finished("cancelled", Usage(0, 0, 0, 0.0, 0.0)))

    def _expire(self) -> None:
        """Give up what waited here for too long; the process looks after what it has."""
        with self._changed:
            late = self._requests.drop_late(time.monotonic())
        for entry in late:
            entry.send(Failed("timeout", "the engine was not ready in time", "Ask again later"))

    def _see_overdue(self) -> None:
        """Raise HungError if a request should have been given up there, long ago: then the
        process answers, but the thread that works for it does not."""
        # One step may take long: as much again as the whole request may.
        late = time.monotonic() - self._first.settings.timeout
        with self._changed:
            overdue = any(entry.is_late(late) for entry in self._requests.in_flight)
        if overdue:
            raise HungError("the engine did not get on with a request and was ended")

    def _fail_all(self) -> None:
        with self._changed:
            rest = self._requests.drop_all()
            refusal = self._refusal or Failed("engine", self._status.message)
        for entry in rest:
            entry.send(refusal)
