"""The thread that owns the native context: loads the model, then steps until it is told to end."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from runtime_stub.engine.file_watch import FileWatch
from runtime_stub.engine.job import Job
from runtime_stub.engine.loaded import LoadedModel
from runtime_stub.engine.messages import EngineSettings, Failed, Request, Sources, Status
from runtime_stub.engine.profile import Shelf, applied
from runtime_stub.engine.standing import CLOSED, Standing
from runtime_stub.errors import EngineError, PackChangedError, SatchelError

if TYPE_CHECKING:
    from runtime_stub.engine.embedder import Embedder
    from runtime_stub.engine.measuring import Measuring
    from runtime_stub.engine.prompt_cache import PromptCache
    from runtime_stub.engine.prompt_files import PromptFolder
    from runtime_stub.engine.scheduler import Scheduler
    from runtime_stub.engine.warm import Remembered

FIT_ANSWER = 2048
"""Room for the answer, in tokens, where a request names no limit and the context fits it."""
_KEEP_SECONDS = 3.0
"""How long closing may take to write prompts that are worth keeping."""


class EngineThread(threading.Thread):
    """Answers jobs that are ready for the context. Says how far it is in its standing."""

    def __init__(
        self,
        sources: Sources,
        settings: EngineSettings,
        prompts: PromptFolder | None,
        standing: Standing,
        *,
        shelf: Shelf | None,
        measures: bool,
        is_wanted: Callable[[], bool],
        after_step: Callable[[], None],
        on_end: Callable[[Failed], None],
    ) -> None:
        """`is_wanted` says whether there is work, here or on its way. `on_end` is called when
        nothing will be answered any more, with what is left to say to who still waits; the model
        is released when it returns."""
        super().__init__(name="engine", daemon=True)
        self._sources = sources
        self._settings = settings
        self._prompt_folder = prompts
        self._standing = standing
        self._shelf = shelf
        self._measures = measures
        self._is_wanted = is_wanted
        self._after_step = after_step
        self._on_end = on_end
        files = [sources.model] if sources.draft is None else [sources.model, sources.draft]
        self._files = FileWatch(files)
        self._measuring: Measuring | None = None
        """Set while there is something to find out."""
        self._prompts: PromptCache | None = None
        self._embedder: Embedder | None = None
        """Of the model, from the first text to embed on."""
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()

    def put(self, job: Job) -> None:
        """Queue a job. From any thread."""
        self._jobs.put(job)

    def wake(self) -> None:
        """Have it look whether it is to end. From any thread."""
        self._jobs.put(None)

    def run(self) -> None:
        """The thread's work."""
        standing = self._standing
        try:
            self._loaded = self._load()
        except SatchelError as error:
            standing.status = Status("failed", message=str(error))
            if standing.closing:  # then the reason is that loading was broken off
                standing.status = Status("closed", message=CLOSED)
            return
        except Exception as error:  # noqa: BLE001  (reported, not lost with the thread)
            standing.status = Status("failed", message=f"the engine failed to start: {error!r}")
            return
        finally:
            standing.settled.set()
            standing.readable.set()
        scheduler: Scheduler | None = None
        try:
            while not standing.closing:
                scheduler = self._turn(scheduler)
            kind = "closed"
            standing.status = Status("closed", message=CLOSED)
        except PackChangedError as error:
            kind = "changed"
            standing.status = Status("failed", message=str(error))
        except Exception as error:  # noqa: BLE001  (a bug here must end the requests, visibly)
            kind = "engine"
            standing.status = Status("failed", message=f"the engine failed: {error!r}")
        self._on_end(Failed(kind, standing.status.message))
        # Samplers, contexts and model go in this order.
        if scheduler is not None:
            if self._prompts is not None and kind == "closed":
                scheduler.keep_prompts(self._prompts, _KEEP_SECONDS)
            scheduler.close()
        self._loaded.free()

    def _load(self) -> LoadedModel:
        standing, settings = self._standing, self._settings

        def on_progress(fraction: float) -> bool:
            standing.status = Status("loading", progress=fraction)
            return not standing.closing

        known = self._shelf.read() if self._shelf is not None else None
        if known is not None:
            settings = applied(settings, known.profile)
        elif self._shelf is not None and self._measures:
            from runtime_stub.engine.measuring import Measuring

            self._measuring = Measuring(
                self._shelf,
                self._settings,
                self._files,
                self._is_wanted,
                has_warm=bool(self._sources.warm),
            )
        loaded = LoadedModel(self._sources, settings, on_progress)
        standing.loaded = loaded
        standing.readable.set()
        loaded.make_context()
        standing.note(loaded)
        standing.status = Status("ready", progress=1.0)
        return loaded

    def _turn(self, scheduler: Scheduler | None) -> Scheduler | None:
        """Take in what has arrived (waiting if there is nothing else to do), then step."""
        wait = (scheduler is None or scheduler.idle) and self._embedder_idle
        while wait or not self._jobs.empty():
            patience = self._prompts.patience if self._prompts is not None else None
            measuring = self._measuring if wait and patience is None else None
            try:
                if measuring is not None:
                    patience = measuring.begin_rest()
                job = self._jobs.get(wait, patience)
            except queue.Empty:
                if measuring is not None:
                    self._measure(measuring)
                    continue
                if scheduler is not None and self._prompts is not None:
                    scheduler.keep_prompts(self._prompts)
                break
            if job is None:
                return scheduler
            wait = False
            if not isinstance(job.request, Request):
                self._embedder = self._loaded.embedder
                self._embedder.add(job)
                continue
            scheduler = self._scheduler_for(scheduler, job)
            if scheduler is not None:
                scheduler.add(job)
            if self._prompts is not None:
                self._prompts.note()
        self._files.look()
        beside = scheduler is not None and not scheduler.idle
        if scheduler is not None and beside:
            scheduler.step()
            self._after_step()  # what came of it does not wait for the embedder
        if self._embedder is not None and not self._embedder.idle:
            self._embedder.step(beside=beside)
        return scheduler

    @property
    def _embedder_idle(self) -> bool:
        return self._embedder is None or self._embedder.idle

    def _measure(self, measuring: Measuring) -> None:
        settings = measuring.measure(self._loaded.model)
        if measuring.is_over:
            self._measuring = None
        if settings is not None:
            self._loaded.adopt(settings)
            self._standing.note(self._loaded, threads=self._loaded.threads)

    def _scheduler_for(self, scheduler: Scheduler | None, job: Job) -> Scheduler | None:
        """The running scheduler, or a new one with a context that fits the job."""
        loaded, before = self._loaded, self._loaded.context
        needed = len(job.tokens) + (job.generation.max_tokens or FIT_ANSWER) + 1
        if scheduler is not None and (loaded.fits(needed) or not scheduler.idle):
            return scheduler
        try:
            context = loaded.context_for(needed)
        except EngineError as error:
            job.send(Failed("engine", error.message, error.hint))
            return None
        if context is not before:
            size = context.size
            self._standing.note(loaded, context=size.tokens, context_reason=size.reason)
        from runtime_stub.engine.scheduler import Scheduler
        from runtime_stub.engine.warm import read_warm

        remembered: list[Remembered] = [read_warm(source) for source in self._sources.warm]
        if self._prompt_folder is not None:
            from runtime_stub.engine.prompt_cache import PromptCache

            self._prompts = PromptCache(self._prompt_folder, remembered)
        return Scheduler(
            loaded.model,
            context,
            self._settings.parallel,
            lambda mix: loaded.adapters.apply(context.handle, mix),
            remembered,
            self._settings.drafts,
            loaded.draft,
        )
