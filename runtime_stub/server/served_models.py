"""The models of a pack as a server answers with them: from entries and options to engines, and to
what the faces are told of each."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from runtime_stub.models import PackedModel, packed_models
from runtime_stub.session import Session, base_request, engine_settings

if TYPE_CHECKING:
    import subprocess

    from runtime_stub.engine.hardware import Hardware
    from runtime_stub.engine.messages import EngineSettings
    from runtime_stub.engine.remote import RemoteEngine
    from runtime_stub.engine.worker import Begun
    from runtime_stub.server.state import Served


class ServedModels:
    """All of them, the default first."""

    def __init__(self, session: Session, options: dict[str, Any]) -> None:
        """`options` are the command line's. Raises FormatError for a stub, which has none."""
        self._session = session
        self._options = options
        self._models = packed_models(session.bundle, session.recipe)

    @property
    def first(self) -> PackedModel:
        """The default."""
        return self._models[0]

    def settings(self, model: PackedModel) -> EngineSettings:
        """How to run it: as its recipe says, under the options."""
        context = self._options["context"] or model.recipe.context
        return engine_settings(model.recipe, self._options, context)

    def begin_first(self) -> Begun | None:
        """The first engine's process, where that can be forked and is wanted now."""
        options, first = self._options, self.first
        if options["lazy"] or options["probe"] or not sys.platform.startswith("linux"):
            return None
        from runtime_stub.engine.wire import Start
        from runtime_stub.server.engine_process import fork_engine

        start = Start(first.name, self.settings(first))
        with contextlib.suppress(OSError):  # it is told of when the next attempt fails, too
            return fork_engine(self._session, options, start)
        return None

    def start_engines(
        self, hardware: Hardware, begun: Begun | None, on_stop: Callable[[str, str], None]
    ) -> list[RemoteEngine]:
        """An engine for each model, in processes of their own; the first one may have `begun`.
        `on_stop` is told the name of a model whose process ended unasked, and why."""
        from runtime_stub.children import start_self
        from runtime_stub.server.engines import Keeping, start_engines

        options, launch = self._options, self._session.launch
        free = ["--no-sandbox"] if options["no_sandbox"] else []

        def start(socket: int) -> subprocess.Popen[bytes]:
            return start_self(launch, ["engine", "--fd", str(socket), *free], socket=socket)

        memory = options["memory"] or hardware.memory_available
        keeping = Keeping(memory, options["lazy"], options["idle_unload"] or None)
        return start_engines(self._models, start, self.settings, keeping, on_stop, begun)

    def served(self, engines: Sequence[RemoteEngine]) -> Iterator[Served]:
        """What the faces are told about each model, and about it with each of its adapters."""
        from runtime_stub.models import adapted_names
        from runtime_stub.server.engines import Adapted
        from runtime_stub.server.state import Adapter, Defaults, Served

        path, options = self._session.launch.path, self._options
        created = int(path.stat().st_mtime) if path.exists() else 0
        for model, engine in zip(self._models, engines, strict=True):
            request = base_request(model.recipe, options)
            adapters = model.recipe.adapters
            served = Served(
                name=model.name,
                engine=engine,
                defaults=Defaults(
                    sampling=request.sampling,
                    system=options["system"] or model.recipe.system,
                    max_tokens=request.max_tokens,
                ),
                created=created,
                size=model.entry.size,
                sha256=model.entry.sha256,
                details=model.entry.metadata,
                template=model.recipe.template,
                adapters=tuple(Adapter(a.name, a.scale, a.apply == "always") for a in adapters),
            )
            yield served
            for name, chosen in adapted_names(model):
                yield dataclasses.replace(served, name=name, engine=Adapted(engine, chosen))
