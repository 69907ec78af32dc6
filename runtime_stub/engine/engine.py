"""The engine: one model, many requests, a thread that owns the native context.

    submit ──> intake thread ──────────> worker thread ──────> sink of the request
               renders the template,     loads the model,      events, in order
               tokenises                 runs the scheduler

Loading starts at once; requests that come before it has ended wait for it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runtime_stub.engine.context import Context, ContextSize, choose_context, fitting_context
from runtime_stub.engine.errors import TooLongError
from runtime_stub.engine.hardware import Use, read_hardware, read_use, used_by_others
from runtime_stub.engine.interface import Sink, answer
from runtime_stub.engine.job import Job
from runtime_stub.engine.messages import (
    FIT_REQUEST,
    AdapterSource,
    AnyRequest,
    Detokenized,
    DetokenizeRequest,
    Embeddings,
    EmbedRequest,
    EngineSettings,
    Event,
    Failed,
    ModelFacts,
    ModelSource,
    Request,
    RerankRequest,
    Scores,
    Status,
    TokenizeRequest,
    Tokens,
)
from runtime_stub.engine.profile import QUIET, Measured, Profile, Shelf, applied
from runtime_stub.errors import EngineError, PackChangedError, PromptError, SatchelError

if TYPE_CHECKING:
    from runtime_stub.engine.draft_model import DraftModel
    from runtime_stub.engine.embedder import Embedder
    from runtime_stub.engine.prompt import PromptBuilder
    from runtime_stub.engine.prompt_cache import PromptCache
    from runtime_stub.engine.prompt_files import PromptFolder
    from runtime_stub.engine.scheduler import Scheduler
    from runtime_stub.engine.warm import Remembered

REST = 2.0
"""Seconds without a request before something is measured."""
_LONGEST_REST = 600.0
FIT_ANSWER = 2048
"""Room for the answer, in tokens, where a request names no limit and the context fits it."""
CHANGED = "the pack was changed while it was running"
_LOOK = 0.1
"""Seconds between looks at the files while tokens are generated."""
_CLOSED = "the engine is shutting down"
_KEEP_SECONDS = 3.0
"""How long closing may take to write prompts that are worth keeping."""


class Ticket:
    """Handle to a submitted request."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def cancel(self) -> None:
        """Stop at the next step; the request still ends with an event."""
        self._job.cancelled = True


class Engine:
    """Answers requests with one model. Safe to use from any thread."""

    def __init__(
        self,
        source: ModelSource,
        settings: EngineSettings,
        adapters: Sequence[AdapterSource] = (),
        warm: Sequence[ModelSource] = (),
        prompts: PromptFolder | None = None,
        draft: ModelSource | None = None,
        *,
        shelf: Shelf | None = None,
        measures: bool = False,
        after_step: Callable[[], None] = lambda: None,
    ) -> None:
        """Start loading the model at `source` in the background, and its `adapters`. `warm` are
        prompts that it has read already; in `prompts` it keeps further ones; the model at `draft`
        guesses ahead for it.

        What `settings` leave open is as a measurement on the `shelf` says; if there is none and
        it `measures`, it does so when it has nothing else to do. `after_step` is called by the
        thread that generates, after the events of each step.
        """
        self._warm_sources = tuple(warm)
        self._prompt_folder = prompts
        self._prompts: PromptCache | None = None
        self._shelf = shelf
        self._measures = measures and shelf is not None
        self._after_step = after_step
        self._rest = REST
        self._source = source
        self._adapter_sources = tuple(adapters)
        self._draft_source = draft if settings.drafts else None
        self._files = [source, *([self._draft_source] if self._draft_source else [])]
        self._file_states = [_state(file) for file in self._files]
        self._next_look = 0.0
        self._settings = settings
        self._status = Status("loading")
        self._facts: ModelFacts | None = None
        self._readable = threading.Event()
        """Set when the model's vocabulary can be used, or never will be."""
        self._settled = threading.Event()
        self._lock = threading.Lock()
        self._closing = False
        self._unfinished: set[Job] = set()
        """Every request that has not had its last event yet. Guarded by the lock, as is
        `_closing`, so that none slips in after the rest was told that it is over."""
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
        if self._status.state != "ready":
            raise EngineError(self._status.message or _CLOSED)
        return True

    def submit(self, request: AnyRequest, sink: Sink) -> Ticket:
        """Queue a request. `sink` gets its events from the engine's threads, in order, one of
        LAST_EVENTS at the end; it must return quickly."""
        settings = self._settings
        deadline = time.monotonic() + settings.timeout if settings.timeout else None
        job = Job(request, sink, self._forget, deadline)
        refusal: Failed | None = None
        with self._lock:
            if self._closing:
                refusal = Failed("closed", self._status.message or _CLOSED)
            elif len(self._unfinished) >= settings.parallel + settings.queue:
                waiting = len(self._unfinished) - settings.parallel
                refusal = Failed("busy", f"{waiting} requests are waiting already", "Ask later")
            else:
                self._unfinished.add(job)
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
            self._closing = True
            self._intake.put(None)
        self._work.put(None)
        if threading.current_thread() not in (self._worker, self._preparer):
            self._worker.join(timeout)

    def _forget(self, job: Job) -> None:
        with self._lock:
            self._unfinished.discard(job)

    def _run_intake(self) -> None:
        builder: PromptBuilder | None = None
        # While the model loads and its context is made in the other thread; a failure is told to
        # each job.
        with contextlib.suppress(Exception):
            builder = self._early_builder()
        while (job := self._intake.get()) is not None:
            try:
                self._settled.wait()
                if self._status.state != "ready":
                    kind = "engine" if self._status.state == "failed" else "closed"
                    job.send(Failed(kind, self._status.message or _CLOSED))
                    continue
                if builder is None:
                    builder = self._make_builder()
                if not self._facts or not self._facts.template:
                    self._note(template=builder.origin)
                if self._prepare(builder, job):
                    continue
            except PromptError as error:
                kind = "too-long" if isinstance(error, TooLongError) else "prompt"
                job.send(Failed(kind, error.message, error.hint))
                continue
            except SatchelError as error:
                job.send(Failed("engine", error.message, error.hint))
                continue
            except Exception as error:  # noqa: BLE001  (the thread must outlive any prompt)
                job.send(Failed("prompt", f"the prompt can't be read: {error!r}"))
                continue
            self._work.put(job)

    def _early_builder(self) -> PromptBuilder | None:
        import runtime_stub.engine.prompt
        import runtime_stub.engine.scheduler  # noqa: F401

        self._readable.wait()
        ended = self._status.state in ("failed", "closed")
        return None if ended else self._make_builder()

    def _make_builder(self) -> PromptBuilder:
        from runtime_stub.engine.prompt import PromptBuilder

        return PromptBuilder(
            self._model, self._settings.template, self._most, self._settings.examples
        )

    def _prepare(self, builder: PromptBuilder, job: Job) -> bool:
        """Do what needs no context; whether that was all."""
        request = job.request
        if isinstance(request, TokenizeRequest):
            job.send(Tokens(tuple(builder.tokens(request))))
        elif isinstance(request, DetokenizeRequest):
            job.send(Detokenized(builder.text(request.tokens)))
        elif isinstance(request, Request):
            job.mix = self._adapters.mix(request.adapters)
            prompt = builder.prompt(request)
            job.tokens, job.reading, job.grammar = prompt.tokens, prompt.reading, prompt.grammar
            return False
        elif isinstance(request, RerankRequest) and not self._model.can_rerank():
            job.send(
                Failed("unsupported", "this model does not rank documents", "Use a reranking model")
            )
        else:
            return False
        return True

    def _run_worker(self) -> None:
        try:
            self._load()
        except SatchelError as error:
            self._status = Status("failed", message=str(error))
            if self._closing:  # then the reason is that loading was broken off
                self._status = Status("closed", message=_CLOSED)
            return
        except Exception as error:  # noqa: BLE001  (reported, not lost with the thread)
            self._status = Status("failed", message=f"the engine failed to start: {error!r}")
            return
        finally:
            self._settled.set()
            self._readable.set()
        scheduler: Scheduler | None = None
        try:
            while not self._closing:
                scheduler = self._turn(scheduler)
            kind = "closed"
            self._status = Status("closed", message=_CLOSED)
        except PackChangedError as error:
            kind = "changed"
            self._status = Status("failed", message=str(error))
        except Exception as error:  # noqa: BLE001  (a bug here must end the requests, visibly)
            kind = "engine"
            self._status = Status("failed", message=f"the engine failed: {error!r}")
        with self._lock:
            self._closing = True
            self._intake.put(None)
            rest = list(self._unfinished)
        for job in rest:
            job.send(Failed(kind, self._status.message))
        # The intake reads the vocabulary; samplers, context and model go in this order.
        self._preparer.join()
        if scheduler is not None:
            if self._prompts is not None and kind == "closed":
                scheduler.keep_prompts(self._prompts, _KEEP_SECONDS)
            scheduler.close()
        for owner in (self._embedder, self._context, self._draft, self._model):
            if owner is not None:
                owner.free()

    def _load(self) -> None:
        from runtime_stub.engine.adapters import Adapters
        from runtime_stub.engine.model import end_on_bus_error, load_model

        def on_progress(fraction: float) -> bool:
            self._status = Status("loading", progress=fraction)
            return not self._closing

        end_on_bus_error(f"{self._source.name}: {CHANGED}. Start it again\n")
        hardware = read_hardware()
        self._decided = self._settings
        known = self._shelf.read() if self._shelf is not None else None
        if known is not None:
            self._measures = False
            self._settings = applied(self._settings, known.profile)
        self._threads = self._settings.threads or hardware.physical_cores
        self._model = load_model(self._source, on_progress, repack=bool(self._settings.repack))
        self._adapters = Adapters(self._model, self._adapter_sources)
        self._draft: DraftModel | None = None
        if self._draft_source is not None and self._model.forgiving:
            from runtime_stub.engine.draft_model import load_draft

            self._draft = load_draft(self._draft_source, self._model, self._settings, self._threads)
            taken = self._draft.memory if self._draft is not None else 0
            hardware = replace(hardware, memory_available=hardware.memory_available - taken)
        self._context: Context | None = None
        self._embedder: Embedder | None = None
        self._most = self._model.trained_context  # when it is to fit each request
        if self._settings.context != FIT_REQUEST:
            size = choose_context(self._model, self._settings, hardware)
            self._most = size.tokens
            self._readable.set()
            self._make_context(size)
        self._note()
        self._status = Status("ready", progress=1.0)

    def _make_context(self, size: ContextSize) -> Context:
        if self._context is not None:
            self._context.free()
            self._context = None
        context = Context(self._model, size, self._settings, self._threads)
        self._context = context
        self._note(context=size.tokens, context_reason=size.reason)
        return context

    def _note(self, **changes: Any) -> None:
        """Update what `facts` tells."""
        with self._lock:
            self._facts = replace(self._facts or self._first_facts(), **changes)

    def _first_facts(self) -> ModelFacts:
        from runtime_stub.engine.library import cpu_variant

        return ModelFacts(
            description=self._model.description(),
            parameters=self._model.parameters,
            size=self._model.size,
            trained_context=self._model.trained_context,
            context=0,
            context_reason="as needed",
            threads=self._threads,
            cpu_variant=cpu_variant(),
            embeddings=True,
            rerank=self._model.can_rerank(),
            vocabulary=self._model.vocabulary_size,
            template="",
            draft=self._draft.description if self._draft is not None else "",
        )

    def _turn(self, scheduler: Scheduler | None) -> Scheduler | None:
        """Take in what has arrived (waiting if there is nothing else to do), then step."""
        wait = scheduler is None or scheduler.idle
        while wait or not self._work.empty():
            patience = self._prompts.patience if self._prompts is not None else None
            try:
                before = read_use() if self._measures and wait and patience is None else None
                job = self._work.get(wait, self._rest if before else patience)
            except queue.Empty:
                if before is not None:
                    self._measure(before)
                    continue
                if scheduler is not None and self._prompts is not None:
                    scheduler.keep_prompts(self._prompts)
                break
            if job is None:
                return scheduler
            wait = False
            if not isinstance(job.request, Request):
                self._embed(job)
                continue
            scheduler = self._scheduler_for(scheduler, job)
            if scheduler is not None:
                scheduler.add(job)
            if self._prompts is not None:
                self._prompts.note()
        if scheduler is not None:
            self._look_at_files()
            scheduler.step()
            self._after_step()
        return scheduler

    def _look_at_files(self) -> None:
        """Weights are read from the file as they are needed: changed ones mean nonsense."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _LOOK
        if [_state(file) for file in self._files] != self._file_states:
            raise PackChangedError(CHANGED, "Start it again")

    def _measure(self, before: Use) -> None:
        """Nobody has asked anything since `before`: find out what runs best here. Not while
        other programs are at work; then, and if somebody asks, it is tried again later."""
        from runtime_stub.engine.tuner import Tuner, WantedError

        if self._shelf is None or self._is_wanted():
            return
        self._rest = min(2 * self._rest, _LONGEST_REST)
        if used_by_others(before, read_use()) > QUIET:
            return
        changed = [_state(file) for file in self._files] != self._file_states
        if changed or not self._shelf.begin():
            self._measures = False
            return
        settings = self._decided
        if self._warm_sources and settings.flash_attention is None:
            settings = replace(settings, flash_attention=True)  # as the warm prompts have it
        tuner = Tuner(self._model, settings, read_hardware(), is_wanted=self._is_wanted)
        try:
            measured = tuner.measure()
        except WantedError:
            self._shelf.give_up()
            return
        except Exception as error:  # noqa: BLE001  (nobody asked for it: nobody is to suffer)
            measured = Measured(Profile(), note=f"it can't be measured: {error}")
        if measured.is_busy:
            self._shelf.give_up()
            return
        self._measures = False
        self._shelf.keep(measured)
        self._settings = applied(self._decided, measured.profile)
        if self._context is not None:
            self._context.set_threads(*self._context.threads_for(self._settings, self._threads))
        self._note(threads=self._settings.threads or self._threads)

    def _is_wanted(self) -> bool:
        return bool(self._unfinished) or self._closing

    def _embed(self, job: Job) -> None:
        """Answer an EmbedRequest or RerankRequest."""
        request = job.request
        try:
            if self._embedder is None:
                from runtime_stub.engine.embedder import Embedder

                # What the context of chats holds nothing in yet counts as free.
                tokens = self._context.size.tokens if self._context else 0
                reserved = tokens * self._model.state_bytes_per_token(self._settings.kv)
                self._embedder = Embedder(self._model, self._threads, reserved)
            if isinstance(request, EmbedRequest):
                vectors = [
                    self._embedder.embed(text, normalise=request.normalise)
                    for text in request.texts
                    if not job.cancelled
                ]
                job.send(Embeddings(tuple(v for v, _ in vectors), sum(n for _, n in vectors)))
            elif isinstance(request, RerankRequest):
                scores = [
                    self._embedder.score(request.query, document)
                    for document in request.documents
                    if not job.cancelled
                ]
                job.send(Scores(tuple(s for s, _ in scores), sum(n for _, n in scores)))
            self._embedder.rest()
        except PromptError as error:
            job.send(Failed("prompt", error.message, error.hint))
        except EngineError as error:
            job.send(Failed("unsupported", error.message, error.hint))

    def _scheduler_for(self, scheduler: Scheduler | None, job: Job) -> Scheduler | None:
        """The running scheduler, or a new one with a context that fits the job."""
        needed = len(job.tokens) + (job.generation.max_tokens or FIT_ANSWER) + 1
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
            job.send(Failed("engine", error.message, error.hint))
            return None
        from runtime_stub.engine.scheduler import Scheduler
        from runtime_stub.engine.warm import read_warm

        owner = context
        remembered: list[Remembered] = [read_warm(source) for source in self._warm_sources]
        if self._prompt_folder is not None:
            from runtime_stub.engine.prompt_cache import PromptCache

            self._prompts = PromptCache(self._prompt_folder, remembered)
        return Scheduler(
            self._model,
            owner,
            self._settings.parallel,
            lambda mix: self._adapters.apply(owner.handle, mix),
            remembered,
            self._settings.drafts,
            self._draft,
        )


def _state(source: ModelSource) -> tuple[int, int]:
    """What changes when somebody writes to the model's file: its size and time."""
    facts = os.fstat(source.descriptor)
    return facts.st_size, facts.st_mtime_ns
