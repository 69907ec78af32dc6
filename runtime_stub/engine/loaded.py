"""A model in memory, with what works on it: adapters, a model that guesses ahead, contexts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from runtime_stub.engine.adapters import Adapters
from runtime_stub.engine.context import Context, ContextSize, choose_context, fitting_context
from runtime_stub.engine.hardware import read_hardware
from runtime_stub.engine.library import cpu_variant
from runtime_stub.engine.messages import FIT_REQUEST, EngineSettings, ModelFacts, Sources
from runtime_stub.engine.model import end_on_bus_error
from runtime_stub.engine.weights import load_weights
from runtime_stub.errors import PackChangedError

if TYPE_CHECKING:
    from runtime_stub.engine.draft_model import DraftModel
    from runtime_stub.engine.embedder import Embedder


class LoadedModel:
    """Belongs to the engine's thread; others may read the vocabulary and mix adapters."""

    def __init__(
        self,
        sources: Sources,
        settings: EngineSettings,
        on_progress: Callable[[float], bool],
    ) -> None:
        """Load it, and decide how large its context will be. `on_progress` gets the fraction
        that is loaded and returns whether to go on. Raises EngineError."""
        end_on_bus_error(f"{sources.model.name}: {PackChangedError.meaning}. Start it again\n")
        hardware = read_hardware()
        self._settings = settings
        self._threads = settings.threads or hardware.physical_cores
        memory = hardware.memory_available
        self.model = load_weights(sources.model, on_progress, settings, memory)
        self.adapters = Adapters(self.model, sources.adapters)
        self.draft: DraftModel | None = None
        if sources.draft is not None and self.model.forgiving:
            from runtime_stub.engine.draft_model import load_draft

            self.draft = load_draft(sources.draft, self.model, settings, self._threads)
            taken = self.draft.memory if self.draft is not None else 0
            hardware = replace(hardware, memory_available=hardware.memory_available - taken)
        self.context: Context | None = None
        self._embedder: Embedder | None = None
        self._size: ContextSize | None = None
        """Of the context for all requests; None if it is to fit each."""
        self.most = self.model.trained_context
        """Tokens that a context can hold."""
        if settings.context != FIT_REQUEST:
            self._size = choose_context(self.model, settings, hardware)
            self.most = self._size.tokens

    @property
    def threads(self) -> int:
        """How many compute."""
        return self._settings.threads or self._threads

    @property
    def facts(self) -> ModelFacts:
        """What can be told of it now, the template left open."""
        size = self.context.size if self.context is not None else None
        return ModelFacts(
            description=self.model.description(),
            parameters=self.model.parameters,
            size=self.model.size,
            trained_context=self.model.trained_context,
            context=size.tokens if size is not None else 0,
            context_reason=size.reason if size is not None else "as needed",
            threads=self.threads,
            cpu_variant=cpu_variant(),
            embeddings=not self.model.can_rerank(),
            rerank=self.model.can_rerank(),
            vocabulary=self.model.vocabulary_size,
            template="",
            draft=self.draft.description if self.draft is not None else "",
        )

    def make_context(self) -> None:
        """Make the context for all requests, unless it is to fit each. Raises EngineError."""
        if self._size is not None:
            self._make(self._size)

    def fits(self, needed: int) -> bool:
        """Whether the context that there is will do for a request of `needed` tokens."""
        if self.context is None:
            return False
        return self._size is not None or needed <= self.context.size.tokens

    def context_for(self, needed: int) -> Context:
        """The context that there is, or where it does not fit, a new one that does instead.

        Raises EngineError; then there is none any more.
        """
        if self.context is not None and self.fits(needed):
            return self.context
        return self._make(fitting_context(self.model, needed))

    @property
    def embedder(self) -> Embedder:
        """What reads for embeddings, beside the context."""
        if self._embedder is None:
            from runtime_stub.engine.embedder import Embedder

            # What the context of chats holds nothing in yet counts as free.
            tokens = self.context.size.tokens if self.context is not None else 0
            reserved = tokens * self.model.state_bytes_per_token(self._settings.kv)
            self._embedder = Embedder(self.model, self._threads, reserved, self.adapters.apply)
        return self._embedder

    def adopt(self, settings: EngineSettings) -> None:
        """Run with other settings from now on, as far as nothing must be loaded anew for it."""
        self._settings = settings
        if self.context is not None:
            self.context.set_threads(*self.context.threads_for(settings, self._threads))

    def free(self) -> None:
        """Give its memory back; whatever reads the vocabulary or uses a context must be gone."""
        for owner in (self._embedder, self.context, self.draft, self.model):
            if owner is not None:
                owner.free()

    def _make(self, size: ContextSize) -> Context:
        if self.context is not None:
            self.context.free()
            self.context = None
        self.context = Context(self.model, size, self._settings, self._threads)
        return self.context
