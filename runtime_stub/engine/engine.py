"""The engine: one model, many requests, a thread that owns the native context.

    submit ──> intake thread ──────────> worker thread ──────> sink of the request
               renders the template,     loads the model,      events, in order
               tokenises                 runs the scheduler

Loading starts at once; requests that come before it has ended wait for it.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import replace

from runtime_stub.engine.context import Context, ContextSize, choose_context, fitting_context
from runtime_stub.engine.hardware import read_hardware
from runtime_stub.engine.messages import (
    FIT_REQUEST,
    EngineSettings,
    Event,
    Failed,
    Finished,
    ModelFacts,
    ModelSource,
    Request,
    Status,
)
from runtime_stub.engine.scheduler import Job, Scheduler, Sink
from runtime_stub.errors import EngineError, PromptError, SatchelError

FIT_ANSWER = 2048
"""Room for the answer, in tokens, where a request names no limit and the context fits it."""


class Ticket:
    """Handle to a submitted request."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def cancel(self) -> None:
        """Stop at the next step; the request still ends with an event."""
        self._job.cancelled = True


class Engine:
    """Answers requests with one model. Safe to use from any thread."""

    def __init__(self, source: ModelSource, settings: EngineSettings) -> None:
        """Start loading the model at `source` in the background."""
        self._source = source
        self._settings = settings
        self._status = Status("loading")
        self._facts: ModelFacts | None = None
        self._settled = threading.Event()
        self._closing = False
        self._intake: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._work: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._worker = threading.Thread(target=self._run_worker, name="engine", daemon=True)
        self._preparer = threading.Thread(target=self._run_intake, name="intake", daemon=True)
        self._worker.start()
        self._preparer.start()

    @property
    def status(self) -> Status:
        """What the engine is doing right now."""
        return self._status

    @property
    def facts(self) -> ModelFacts | None:
        """What the model is and how it runs; None until it is ready."""
        return self._facts

    def wait_ready(self, timeout: float | None = None) -> bool:
        """Wait until loading has ended; False when `timeout` seconds pass first.

        Raises EngineError when the model could not be loaded.
        """
        if not self._settled.wait(timeout):
            return False
        if self._status.state == "failed":
            raise EngineError(self._status.message)
        return True

    def submit(self, request: Request, sink: Sink) -> Ticket:
        """Queue a request. `sink` gets its events from the engine's threads, in order,
        the last one Finished or Failed; it must return quickly."""
        job = Job(request, sink)
        if self._closing:
            sink(Failed("closed", "the engine is shutting down"))
        else:
            self._intake.put(job)
        return Ticket(job)

    def answer(self, request: Request) -> Iterator[Event]:
        """The events of one request. Leaving the loop early cancels it."""
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        ticket = self.submit(request, events.put)
        try:
            while True:
                event = events.get()
                yield event
                if isinstance(event, (Finished, Failed)):
                    return
        finally:
            ticket.cancel()

    def close(self, timeout: float = 10.0) -> None:
        """Stop both threads; requests in flight fail. Memory goes with the process."""
        self._closing = True
        self._intake.put(None)
        self._work.put(None)
        self._worker.join(timeout)

    def _run_intake(self) -> None:
        # Imported while the model loads in the other thread.
        from runtime_stub.engine.prompt import PromptBuilder

        builder: PromptBuilder | None = None
        while (job := self._intake.get()) is not None:
            self._settled.wait()
            if self._status.state != "ready":
                job.sink(Failed("engine", self._status.message or "the engine is shutting down"))
                continue
            try:
                if builder is None:
                    builder = PromptBuilder(self._model, self._settings.template)
                    self._facts = replace(self._known_facts(), template=builder.origin)
                job.tokens = builder.tokens(job.request)
            except PromptError as error:
                job.sink(Failed("prompt", error.message, error.hint))
                continue
            except SatchelError as error:
                job.sink(Failed("engine", error.message, error.hint))
                continue
            except Exception as error:  # noqa: BLE001  (the thread must outlive any prompt)
                job.sink(Failed("prompt", f"the prompt can't be read: {error!r}"))
                continue
            self._work.put(job)

    def _run_worker(self) -> None:
        try:
            self._load()
        except SatchelError as error:
            self._status = Status("failed", message=str(error))
            return
        except Exception as error:  # noqa: BLE001  (reported, not lost with the thread)
            self._status = Status("failed", message=f"the engine failed to start: {error!r}")
            return
        finally:
            self._settled.set()
        scheduler: Scheduler | None = None
        try:
            while not self._closing:
                scheduler = self._turn(scheduler)
        except Exception as error:  # noqa: BLE001  (a bug here must end the requests, visibly)
            self._status = Status("failed", message=f"the engine failed: {error!r}")
            self._closing = True
        if scheduler is not None:
            scheduler.fail_all(Failed("closed", self._status.message or "the engine was stopped"))
        self._refuse_rest()

    def _load(self) -> None:
        from runtime_stub.engine.model import load_model

        def on_progress(fraction: float) -> bool:
            self._status = Status("loading", progress=fraction)
            return not self._closing

        hardware = read_hardware()
        self._threads = self._settings.threads or hardware.physical_cores
        self._model = load_model(self._source, on_progress)
        self._context: Context | None = None
        if self._settings.context != FIT_REQUEST:
            self._make_context(choose_context(self._model, self._settings, hardware))
        self._status = Status("ready", progress=1.0)
        self._facts = self._known_facts()

    def _make_context(self, size: ContextSize) -> Context:
        if self._context is not None:
            self._context.free()
        self._context = Context(self._model, size, self._settings, self._threads)
        return self._context

    def _known_facts(self) -> ModelFacts:
        from runtime_stub.engine.library import cpu_variant

        size = self._context.size if self._context is not None else ContextSize(0, "as needed")
        return ModelFacts(
            description=self._model.description(),
            parameters=self._model.parameters,
            size=self._model.size,
            trained_context=self._model.trained_context,
            context=size.tokens,
            context_reason=size.reason,
            threads=self._threads,
            cpu_variant=cpu_variant(),
            template=self._facts.template if self._facts is not None else "",
        )

    def _turn(self, scheduler: Scheduler | None) -> Scheduler | None:
        """Take in what has arrived (waiting if there is nothing else to do), then step."""
        wait = scheduler is None or scheduler.idle
        while True:
            try:
                job = self._work.get(block=wait)
            except queue.Empty:
                break
            if job is None:
                return scheduler
            wait = False
            scheduler = self._scheduler_for(scheduler, job)
            if scheduler is not None:
                scheduler.add(job)
        if scheduler is not None:
            scheduler.step()
        return scheduler

    def _scheduler_for(self, scheduler: Scheduler | None, job: Job) -> Scheduler | None:
        """The running scheduler, or a new one with a context that fits the job."""
        needed = len(job.tokens) + (job.request.max_tokens or FIT_ANSWER) + 1
        fits = self._context is not None and (
            self._settings.context != FIT_REQUEST or needed <= self._context.size.tokens
        )
        if scheduler is not None and (fits or not scheduler.idle):
            return scheduler
        try:
            context = self._context if fits else None
            if context is None:
                context = self._make_context(fitting_context(self._model, needed))
        except EngineError as error:
            job.sink(Failed("engine", error.message, error.hint))
            return None
        return Scheduler(self._model, context, self._settings.parallel)

    def _refuse_rest(self) -> None:
        for pending in (self._work, self._intake):
            while True:
                try:
                    job = pending.get(block=False)
                except queue.Empty:
                    break
                if job is not None:
                    job.sink(Failed("closed", "the engine is shutting down"))
