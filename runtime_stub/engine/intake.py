"""Takes requests in: renders the template, tokenises, and answers what takes no context."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from runtime_stub.engine.errors import TooLongError
from runtime_stub.engine.job import Job
from runtime_stub.engine.messages import (
    Detokenized,
    DetokenizeRequest,
    EngineSettings,
    Failed,
    Request,
    RerankRequest,
    TokenizeRequest,
    Tokens,
)
from runtime_stub.engine.standing import Standing
from runtime_stub.errors import PromptError, SatchelError

if TYPE_CHECKING:
    from runtime_stub.engine.loaded import LoadedModel
    from runtime_stub.engine.prompt import PromptBuilder

_NO_RANKS = Failed("unsupported", "this model does not rank documents", "Use a reranking model")
_NO_VECTORS = Failed(
    "unsupported",
    "this model ranks documents and makes no vectors",
    "Use an embedding model, or one that generates text",
)


class Intake(threading.Thread):
    """Gets requests ready one by one, while another thread generates."""

    def __init__(
        self, standing: Standing, settings: EngineSettings, pass_on: Callable[[Job], None]
    ) -> None:
        """Jobs that are ready for the context it will `pass_on`."""
        super().__init__(name="intake", daemon=True)
        self._standing = standing
        self._settings = settings
        self._pass_on = pass_on
        self._builder: PromptBuilder | None = None
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()

    def put(self, job: Job) -> None:
        """Queue a request; it waits here until the model is loaded. From any thread."""
        self._jobs.put(job)

    def end(self) -> None:
        """Stop when everything that was put before is done. From any thread."""
        self._jobs.put(None)

    def run(self) -> None:
        """The thread's work."""
        # While the model loads and its context is made in the other thread; a failure is told to
        # each job.
        with contextlib.suppress(Exception):
            self._build_early()
        while (job := self._jobs.get()) is not None:
            try:
                if self._prepare(job):
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
            self._pass_on(job)

    def _build_early(self) -> None:
        import runtime_stub.engine.prompt
        import runtime_stub.engine.scheduler  # noqa: F401

        self._standing.readable.wait()
        loaded = self._standing.loaded
        if loaded is not None and self._standing.status.state not in ("failed", "closed"):
            self._build(loaded)

    def _build(self, loaded: LoadedModel) -> PromptBuilder:
        from runtime_stub.engine.prompt import PromptBuilder

        settings = self._settings
        self._builder = PromptBuilder(
            loaded.model, settings.template, loaded.most, settings.examples
        )
        return self._builder

    def _prepare(self, job: Job) -> bool:
        """Do what needs no context; whether that was all. Raises what is wrong with it."""
        self._standing.settled.wait()
        loaded = self._standing.outcome()
        if isinstance(loaded, Failed):
            job.send(loaded)
            return True
        builder = self._builder or self._build(loaded)
        if not self._standing.facts or not self._standing.facts.template:
            self._standing.note(loaded, template=builder.origin)
        request = job.request
        if isinstance(request, TokenizeRequest):
            job.send(Tokens(tuple(builder.tokens(request))))
        elif isinstance(request, DetokenizeRequest):
            job.send(Detokenized(builder.text(request.tokens)))
        elif isinstance(request, Request):
            job.mix = loaded.adapters.mix(request.adapters)
            prompt = builder.prompt(request)
            job.tokens, job.reading, job.grammar = prompt.tokens, prompt.reading, prompt.grammar
            return False
        elif isinstance(request, RerankRequest) != loaded.model.can_rerank():
            job.send(_NO_RANKS if isinstance(request, RerankRequest) else _NO_VECTORS)
        else:
            job.mix = loaded.adapters.mix(request.adapters)
            return False
        return True
