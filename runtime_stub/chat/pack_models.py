"""The pack's models as a chat uses them: one at a time, loaded in the background."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from runtime_stub.bundle import Bundle
from runtime_stub.chat.background import BackgroundEngine, OnProgress
from runtime_stub.engine.interface import AnyEngine
from runtime_stub.engine.messages import EngineSettings, Request
from runtime_stub.models import (
    Adapters,
    PackedModel,
    adapted_names,
    as_fractions,
    choose,
    find_sources,
)


@dataclass(frozen=True)
class Prepared:
    """What holds for a chat with one of the models."""

    settings: EngineSettings
    request: Request
    system: str | None


Prepare = Callable[[PackedModel, Adapters | None], Prepared]


class PackModels:
    """Says which models a pack has, and holds the engine of the one that answers."""

    def __init__(
        self,
        bundle: Bundle,
        models: tuple[PackedModel, ...],
        prepare: Prepare,
        name: str | None = None,
    ) -> None:
        """Start loading the model called `name`, or the first. Raises InputError when there is
        none of that name."""
        self.switched = threading.Event()
        """Set when another engine has taken over."""
        self._bundle = bundle
        self._models = models
        self._prepare = prepare
        self._model, adapters = choose(models, name)
        self._current = name or self._model.name
        self.prepared = prepare(self._model, adapters)
        self.engine = self._load(self._model, self.prepared.settings)

    @property
    def names(self) -> Sequence[str]:
        """All of them, those with an adapter included, in the pack's order."""
        return [
            name
            for model in self._models
            for name in (model.name, *(adapted for adapted, _ in adapted_names(model)))
        ]

    @property
    def current(self) -> str:
        """The one that answers."""
        return self._current

    def switch(self, name: str) -> None:
        """Have another one answer from now on; it loads in the background.

        Raises InputError when there is none of that name.
        """
        model, adapters = choose(self._models, name)
        self.prepared = self._prepare(model, adapters)
        self._current = name
        if model is self._model:  # with other adapters, which each request names
            return
        # First the old one goes: there may not be memory for both.
        self.engine.close()
        self._model = model
        self.engine = self._load(model, self.prepared.settings)
        self.switched.set()

    def _load(self, model: PackedModel, settings: EngineSettings) -> BackgroundEngine:
        def make(on_progress: OnProgress) -> AnyEngine:
            from runtime_stub.engine.engine import Engine
            from runtime_stub.profiles import shelf_for

            found = find_sources(
                self._bundle,
                model,
                on_start=as_fractions(on_progress),
                on_wait=lambda: on_progress(0.0),
                drafts=settings.drafts,
            )
            on_progress(1.0)
            return Engine(
                found,
                settings,
                shelf=shelf_for(self._bundle, model, settings),
                measures=True,
            )

        return BackgroundEngine(make)
