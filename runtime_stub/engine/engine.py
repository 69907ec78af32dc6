"""The engine: one model, many requests, a thread that owns the native context.

    submit ──> intake ───────────────> engine thread ──────> sink of the request
               renders the template,   loads the model,      events, in order
               tokenises               runs the scheduler

Loading starts at once; requests that come before it has ended wait for it.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from runtime_stub.engine.crowd import slots_of, too_many
from runtime_stub.engine.engine_thread import EngineThread
from runtime_stub.engine.intake import Intake
from runtime_stub.engine.interface import Sink, answer
from runtime_stub.engine.job import Job, Ticket
from runtime_stub.engine.messages import (
    AnyRequest,
    EngineSettings,
    Event,
    Failed,
    ModelFacts,
    Sources,
    Status,
)
from runtime_stub.engine.profile import Shelf
from runtime_stub.engine.standing import CLOSED, Standing
from runtime_stub.errors import EngineError

if TYPE_CHECKING:
    from runtime_stub.engine.prompt_files import PromptFolder


class Engine:
    """Answers requests with one model. Safe to use from any thread."""

    def __init__(
        self,
        sources: Sources,
        settings: EngineSettings,
        prompts: PromptFolder | None = None,
        *,
        shelf: Shelf | None = None,
        measures: bool = False,
        after_step: Callable[[], None] = lambda: None,
    ) -> None:
        """Start loading the model at `sources` in the background, with what belongs to it. In
        `prompts` it keeps what it has read.

        What `settings` leave open is as a measurement on the `shelf` says; if there is none and
        it `measures`, it does so when it has nothing else to do. `after_step` is called by the
        thread that generates, after the events of each step.
        """
        self._settings = settings
        self._standing = Standing()
        self._lock = threading.Lock()
        self._unfinished: dict[Job, None] = {}
        """Every request that has not had its last event yet, in the order in which they came.
        Guarded by the lock, as is `closing`, so that none slips in after the rest was told that
        it is over."""
        self._thread = EngineThread(
            sources if settings.drafts else replace(sources, draft=None),
            settings,
            prompts,
            self._standing,
            shelf=shelf,
            measures=measures,
            is_wanted=lambda: bool(self._unfinished) or self._standing.closing,
            after_step=after_step,
            on_end=self._end_all,
        )
        self._intake = Intake(self._standing, settings, self._thread.put)
        self._thread.start()
        self._intake.start()

    @property
    def status(self) -> Status:
        """What the engine is doing right now."""
        return self._standing.status

    @property
    def facts(self) -> ModelFacts | None:
        """What the model is and how it runs; None until it is ready."""
        return self._standing.facts

    def wait_ready(self, timeout: float | None = None) -> bool:
        """Wait until loading has ended; False when `timeout` seconds pass first.

        Raises EngineError when the model could not be loaded.
        """
        if not self._standing.settled.wait(timeout):
            return False
        if self.status.state != "ready":
            raise EngineError(self.status.message or CLOSED)
        return True

    def submit(self, request: AnyRequest, sink: Sink) -> Ticket:
        """Queue a request. `sink` gets its events from the engine's threads, in order, one of
        LAST_EVENTS at the end; it must return quickly."""
        settings = self._settings
        deadline = time.monotonic() + settings.timeout if settings.timeout else math.inf
        job = Job(request, sink, self._forget, deadline)
        with self._lock:
            if self._standing.closing:
                refusal: Failed | None = Failed("closed", self.status.message or CLOSED)
            else:
                owed = [slots_of(other.request) for other in self._unfinished]
                refusal = too_many(slots_of(request), owed, settings)
            if refusal is None:
                self._unfinished[job] = None
                self._intake.put(job)
        if refusal is not None:
            job.send(refusal)
        return Ticket(job)

    def answer(self, request: AnyRequest) -> Iterator[Event]:
        """The events of one request. Leaving the loop early cancels it."""
        return answer(self, request)

    def close(self, timeout: float = 10.0) -> None:
        """Stop both threads and release the model; requests in flight fail."""
        with self._lock:
            self._standing.closing = True
            self._intake.end()
        self._thread.wake()
        if threading.current_thread() not in (self._thread, self._intake):
            self._thread.join(timeout)

    def _forget(self, job: Job) -> None:
        with self._lock:
            self._unfinished.pop(job, None)

    def _end_all(self, event: Failed) -> None:
        """The last that the engine's thread can do for any request: tell all that it is over.
        Returns when nobody reads the model's vocabulary any more."""
        with self._lock:
            self._standing.closing = True
            self._intake.end()
            rest = list(self._unfinished)
        for job in rest:
            job.send(event)
        self._intake.join()
