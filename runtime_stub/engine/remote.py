"""An engine in a process of its own: an abort in native code costs the requests in flight.

    submit ──> dispatch: held until the engine is ready ──> writer thread ──┐ socket  process.py
    sinks  <── supervisor thread: starts, listens, starts anew           <──┤
    sinks  <── event loop, where there is one (`listen_in`)              <──┘

A process that ends is replaced at once, and again after growing pauses while its successors
end before they get to work. A model that can't be loaded or was changed is not tried again.

A model that is not wanted has no process: before its first request if it is lazy, after it was
unloaded, and while others use the memory it needs (`residence`). The next request starts one.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator

from runtime_stub.engine.crowd import slots_of
from runtime_stub.engine.dispatch import Dispatch
from runtime_stub.engine.interface import Sink, answer
from runtime_stub.engine.loan import EventLoop
from runtime_stub.engine.messages import (
    AnyRequest,
    EngineSettings,
    Event,
    Failed,
    ModelFacts,
    Status,
)
from runtime_stub.engine.pending import Pending, Register, RemoteTicket
from runtime_stub.engine.presence import Presence
from runtime_stub.engine.residence import Stay
from runtime_stub.engine.supervisor import Supervisor
from runtime_stub.engine.wire import Start, WireError, encode
from runtime_stub.engine.worker import Begun, StartProcess
from runtime_stub.errors import EngineError

_CLOSED = "the engine is shutting down"


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
        stay = stay or Stay()
        requests = Register()
        self._timeout = settings.timeout
        self._identities = itertools.count(1)
        self._presence = Presence(stay, requests)
        self._dispatch = Dispatch(settings, self._presence, requests)
        self._supervisor = Supervisor(
            start,
            Start(model, settings),
            self._dispatch,
            self._presence,
            residence=stay.residence,
            begun=begun,
            on_stop=on_stop,
        )
        self._supervisor.start()

    @property
    def status(self) -> Status:
        """What the engine is doing right now."""
        return self._presence.status

    @property
    def facts(self) -> ModelFacts | None:
        """What the model is and how it runs; None until it was ready for the first time."""
        return self._dispatch.facts

    @property
    def unloads_in(self) -> float | None:
        """Seconds until the model is unloaded if nobody asks anything; None for never."""
        return self._presence.unloads_in

    def load(self) -> None:
        """Bring the model into memory, in the background, without a request."""
        self._presence.load()

    def unload(self) -> None:
        """Take the model out of memory as soon as nothing is in flight. Returns at once; the
        next request brings it back."""
        self._presence.unload()

    def unload_after(self, seconds: float | None) -> None:
        """Unload the model when it had nothing to do for so long; None for never. That holds until
        it was unloaded; then what its Stay says does again."""
        self._presence.unload_after(seconds)

    def wait_ready(self, timeout: float | None = None) -> bool:
        """Load the model, and wait until that has ended; False when `timeout` seconds pass first.

        Raises EngineError when the model could not be loaded.
        """
        status = self._presence.load_and_wait(timeout)
        if status is not None and status.state != "ready":
            raise EngineError(status.message)
        return status is not None

    def submit(self, request: AnyRequest, sink: Sink) -> RemoteTicket:
        """Queue a request, without ever waiting. `sink` gets its events from the engine's
        threads, in order, one of LAST_EVENTS at the end; it must return quickly."""
        deadline = time.monotonic() + self._timeout if self._timeout else None
        entry = Pending(next(self._identities), bytearray(), sink, deadline, slots_of(request))
        refusal: Failed | None
        try:
            entry.frame = encode(request, entry.identity)
        except WireError as error:
            invalid = Failed("prompt", f"the request can't be taken: {error}")
            refusal = self._presence.refusal or invalid
        else:
            refusal = self._dispatch.take_in(entry)
        if refusal is not None:
            entry.send(refusal)
        return RemoteTicket(lambda: self._dispatch.cancel(entry))

    def listen_in(self, loop: EventLoop | None) -> None:
        """Have sinks called in an event loop, from soon on, which saves a change of threads for
        each event; None has them called in a thread again. A loop that ends is left by itself."""
        self._supervisor.listen_in(loop)

    def answer(self, request: AnyRequest) -> Iterator[Event]:
        """The events of one request. Leaving the loop early cancels it."""
        return answer(self, request)

    def close(self, timeout: float = 10.0) -> None:
        """End the process: asked to, after `timeout` seconds told to, then killed. Requests
        in flight fail at once."""
        self.listen_in(None)  # which may be waiting here
        self._presence.close(_CLOSED)
        self._dispatch.fail_all()
        self._supervisor.finish(timeout)
