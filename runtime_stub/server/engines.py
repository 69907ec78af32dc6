"""The engines behind a server: one process for each model, started when it is wanted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from runtime_stub.engine.interface import AnyTicket, Sink
from runtime_stub.engine.messages import (
    AnyRequest,
    EmbedRequest,
    EngineSettings,
    Request,
    RerankRequest,
)
from runtime_stub.engine.remote import RemoteEngine
from runtime_stub.engine.residence import Residence, Stay
from runtime_stub.engine.worker import Begun, StartProcess
from runtime_stub.models import PackedModel
from runtime_stub.server.state import Engine, EngineAround

OVERHEAD = 96 << 20
"""Bytes of memory that an engine's process takes beside the model's, at most."""


@dataclass(frozen=True)
class Keeping:
    """When models are in memory."""

    memory: int
    """Bytes that they may take together; what does not fit takes turns."""
    lazy: bool = False
    """Whether even the first is loaded only when it is asked."""
    idle: float | None = None
    """Seconds without a request after which one is unloaded; None for never."""


def start_engines(
    models: Sequence[PackedModel],
    start: StartProcess,
    settings: Callable[[PackedModel], EngineSettings],
    keeping: Keeping,
    on_stop: Callable[[str, str], None],
    begun: Begun | None = None,
) -> list[RemoteEngine]:
    """An engine for each model. The first begins to load, unless it shall be lazy: in the process
    that has `begun`, if there is one.

    Models that differ in prompts and sampling only share one. `on_stop` is told the model's name
    and in words what happened when an engine's process ended unasked.
    """
    residence = Residence(keeping.memory)
    made: dict[tuple[object, ...], RemoteEngine] = {}
    engines = []
    for model in models:
        recipe = model.recipe
        engine = tuple(sorted(recipe.engine.items()))
        key = (
            recipe.entry,
            recipe.template,
            recipe.context,
            engine,
            recipe.adapters,
            recipe.drafts,
            recipe.examples,
        )
        if key not in made:
            chosen = settings(model)
            needed = need(model, drafts=chosen.drafts)
            stay = Stay(residence, needed, keeping.lazy or bool(made), keeping.idle)
            name = model.name
            made[key] = RemoteEngine(
                start,
                name,
                chosen,
                on_stop=lambda reason, name=name: on_stop(name, reason),  # type: ignore[misc]
                stay=stay,
                begun=None if made else begun,
            )
        engines.append(made[key])
    return engines


def need(model: PackedModel, *, drafts: bool = True) -> int:
    """Bytes of memory to run it, with its draft if that guesses, as the packer estimated."""
    entries = [model.entry, *([model.draft] if model.draft is not None and drafts else [])]
    stated = [(entry.metadata.get("memory_needed"), entry.size) for entry in entries]
    return OVERHEAD + sum(need if isinstance(need, int) else size for need, size in stated)


class Adapted(EngineAround):
    """An engine whose requests are answered with certain adapters, unless they choose others."""

    def __init__(self, engine: Engine, adapters: tuple[tuple[str, float | None], ...]) -> None:
        super().__init__(engine)
        self._adapters = adapters

    def submit(self, request: AnyRequest, sink: Sink) -> AnyTicket:
        """Queue a request."""
        if isinstance(request, (Request, EmbedRequest, RerankRequest)) and request.adapters is None:
            request = replace(request, adapters=self._adapters)
        return super().submit(request, sink)
