"""What every face needs to know: which models are served, and with which defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from runtime_stub.engine.interface import AnyTicket, Sink
from runtime_stub.engine.messages import AnyRequest, ModelFacts, Sampling, Status
from runtime_stub.server.page import Page
from runtime_stub.server.replies import Problem
from runtime_stub.server.tally import Tally

DEFAULT_NAMES = ("", "default")
"""What clients may call the first model, whatever its name."""
_TAG = ":latest"


class Engine(Protocol):
    """As much of the engine as faces use, whichever process it lives in."""

    @property
    def status(self) -> Status:
        """What it is doing right now."""

    @property
    def facts(self) -> ModelFacts | None:
        """What the model is; None until it is ready."""

    @property
    def unloads_in(self) -> float | None:
        """Seconds until the model is unloaded if nobody asks anything; None for never."""

    def submit(self, request: AnyRequest, sink: Sink) -> AnyTicket:
        """Queue a request; `sink` gets its events, from threads of the engine."""

    def load(self) -> None:
        """Bring the model into memory, in the background, without a request."""

    def unload(self) -> None:
        """Take the model out of memory when nothing is in flight; the next request brings it
        back."""

    def unload_after(self, seconds: float | None) -> None:
        """Unload the model when it had nothing to do for so long; None for never. That holds until
        it was unloaded; then it is as the server was started again."""


class EngineAround:
    """An engine around another, for those that change one thing about it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def status(self) -> Status:
        """As of the engine inside; so are the rest."""
        return self._engine.status

    @property
    def facts(self) -> ModelFacts | None:
        """What the model is; None until it is ready."""
        return self._engine.facts

    @property
    def unloads_in(self) -> float | None:
        """Seconds until the model is unloaded if nobody asks anything; None for never."""
        return self._engine.unloads_in

    def submit(self, request: AnyRequest, sink: Sink) -> AnyTicket:
        """Queue a request."""
        return self._engine.submit(request, sink)

    def load(self) -> None:
        """Bring the model into memory."""
        self._engine.load()

    def unload(self) -> None:
        """Take the model out of memory."""
        self._engine.unload()

    def unload_after(self, seconds: float | None) -> None:
        """Say how long the model may be idle."""
        self._engine.unload_after(seconds)


def behind(engine: Engine) -> Engine:
    """The engine that does the work, behind those around it."""
    while isinstance(engine, EngineAround):
        engine = engine._engine  # noqa: SLF001  (of this module)
    return engine


@dataclass(frozen=True)
class Defaults:
    """What the pack says where a client says nothing."""

    sampling: Sampling = field(default_factory=Sampling)
    system: str | None = None
    max_tokens: int | None = None


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter, as clients see it."""

    name: str
    scale: float
    """How strongly it works when it is chosen without one."""
    always: bool
    """Whether it works where a request chooses nothing."""


@dataclass(frozen=True)
class Served:
    """One model, as clients see it."""

    name: str
    engine: Engine
    defaults: Defaults = field(default_factory=Defaults)
    created: int = 0
    """When it was packed or started, in seconds since 1970."""
    size: int = 0
    """Bytes of its GGUF."""
    sha256: str = ""
    """Of its GGUF, hexadecimal."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """The manifest's facts about it: "architecture", "quantization", "parameters",
    "context_length", "licence", "chat_template", "reasoning", "embedding" and others; any may be
    missing."""
    template: str | None = None
    """The recipe's chat template, if it replaces the model's."""
    adapters: tuple[Adapter, ...] = ()
    """Those that requests may choose."""


@dataclass(frozen=True)
class State:
    """What is served."""

    models: tuple[Served, ...]
    """At least one; the first is the default. A model with an adapter is one of its own."""
    parallel: int = 1
    """How many requests are worked on at once."""
    timeout: float = 600.0
    """Seconds that a request may take; 0 for no limit."""
    tally: Tally = field(default_factory=Tally)
    page: Page | None = None
    """What a browser is shown."""

    def resolve(self, name: str | None) -> Served:
        """The model a client means by `name`. Raises Problem (404) that lists those there are.

        Case matters. Ollama's tag ":latest" may follow any name.
        """
        wanted = (name or "").removesuffix(_TAG)
        if wanted in DEFAULT_NAMES:
            return self.models[0]
        for model in self.models:
            if model.name in (wanted, name):
                return model
        known = ", ".join(model.name for model in self.models)
        raise Problem(
            404, f"there is no model {name!r} here; known: {known}", "model", "model_not_found"
        )
