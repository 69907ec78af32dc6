"""The process of an engine: forked from the server's while that one starts, which saves the start
of a second interpreter; or started through the pack, as every later one is."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from runtime_stub.children import fork_worker
from runtime_stub.confinement.cli import enter

# What both processes need is imported before they part.
from runtime_stub.engine.wire import Connection, Start
from runtime_stub.errors import EngineError
from runtime_stub.server.threads import take_short_turns
from runtime_stub.session import Session

if TYPE_CHECKING:
    from runtime_stub.engine.engine import Engine
    from runtime_stub.engine.worker import Begun


def fork_engine(session: Session, options: dict[str, Any], start: Start) -> Begun:
    """Start the first engine, which does not wait to be told what to load. Once this process is
    confined, and before any other thread.

    Raises OSError.
    """

    def work() -> int:
        enter(session, options)
        return answer_parent(session, theirs, start)

    bundle, launch = session.bundle, session.launch
    ours, theirs = socket.socketpair()
    kept = {bundle.descriptor_of(entry) for entry in bundle.manifest.entries}
    kept |= {launch.descriptor, launch.runtime_descriptor, theirs.fileno()}
    with theirs:
        try:
            process = fork_worker(launch, ["engine"], kept, work)
        except OSError:
            ours.close()
            raise
    # Only now: the engine must not wait for what it has no use for.
    from runtime_stub.engine.worker import Begun

    return Begun(process, ours, knows=True)


def answer_parent(session: Session, end: socket.socket, start: Start | None = None) -> int:
    """Be the engine of the process at the other end of a socket, which says what to load unless
    `start` does; the exit code.

    Threads may still be at work in native code then: nothing must be torn down under them.
    """
    take_short_turns()
    # What every model needs, while it is not known yet which is wanted, and how.
    with contextlib.suppress(EngineError):
        from runtime_stub.engine.library import library

        library()
    from runtime_stub.engine.process import run_engine

    connection = Connection(end)

    def load(start: Start, on_progress: Callable[[float], None]) -> Engine:
        from runtime_stub.engine.engine import Engine
        from runtime_stub.engine.profile import applied
        from runtime_stub.models import (
            as_fractions,
            choose,
            find_sources,
            kept_prompts,
            packed_models,
        )
        from runtime_stub.profiles import shelf_for

        models = packed_models(session.bundle, session.recipe)
        model, _ = choose(models, start.model)
        found = find_sources(
            session.bundle,
            model,
            on_start=as_fractions(on_progress),
            on_wait=lambda: None,
            drafts=start.settings.drafts,
        )
        # Another model may be at work in another process: then nothing is measured unasked.
        alone = len({model.entry.sha256 for model in models}) == 1
        shelf = shelf_for(session.bundle, model, start.settings)
        settings = start.settings
        if settings.prompt_cache and (known := shelf.read()) is not None:
            settings = applied(settings, known.profile)
        return Engine(
            found,
            start.settings,
            kept_prompts(session.bundle, model, settings),
            shelf=shelf,
            measures=alone,
            after_step=connection.flush,
        )

    return run_engine(connection, load, start, flushes=True)
