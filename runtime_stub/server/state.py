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

    def submit(self, request: AnyRequest, sink: Sink) -> AnyTicket:
        """Queue a request; `sink` gets its events, from threads of the engine."""


@dataclass(frozen=True)
class Defaults:
    """What the pack says where a client says nothing."""

    sampling: Sampling = field(default_factory=Sampling)
    system: str | None = None
    max_tokens: int | None = None


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
    "context_length", "licence", "chat_template" and others; any may be missing."""
    template: str | None = None
    """The recipe's chat template, if it replaces the model's."""


@dataclass(frozen=True)
class State:
    """What is served."""

    models: tuple[Served, ...]
    """At least one; the first is the default."""
    parallel: int = 1
    """How many requests are worked on at once."""
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
