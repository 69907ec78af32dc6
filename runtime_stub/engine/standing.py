"""How far an engine is: what its threads wait for, and what the faces are told."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runtime_stub.engine.messages import Failed, ModelFacts, Status

if TYPE_CHECKING:
    from runtime_stub.engine.loaded import LoadedModel

CLOSED = "the engine is shutting down"


class Standing:
    """Read from any thread. What it says is said by the thread that loads, but for `closing`."""

    def __init__(self) -> None:
        self.status = Status("loading")
        self.facts: ModelFacts | None = None
        """None until the model is ready."""
        self.loaded: LoadedModel | None = None
        self.closing = False
        """Whether it is to end; seen at the next step."""
        self.readable = threading.Event()
        """Set when the model's vocabulary can be used, or never will be."""
        self.settled = threading.Event()
        """Set when loading has ended, well or not."""
        self._lock = threading.Lock()

    def outcome(self) -> LoadedModel | Failed:
        """What there is once loading has ended: the model, or what every request gets instead."""
        status = self.status
        if status.state == "ready" and self.loaded is not None:
            return self.loaded
        kind = "engine" if status.state == "failed" else "closed"
        return Failed(kind, status.message or CLOSED)

    def note(self, loaded: LoadedModel, **changes: Any) -> None:
        """Update what `facts` tells."""
        with self._lock:
            self.facts = replace(self.facts or loaded.facts, **changes)
