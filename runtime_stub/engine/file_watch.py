"""Whether somebody writes to the files of a model while it runs.

Weights are read from the file as they are needed: changed ones mean nonsense.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from runtime_stub.engine.messages import ModelSource
from runtime_stub.errors import PackChangedError

_LOOK = 0.1
"""Seconds between looks while tokens are generated."""


class FileWatch:
    """Knows the files as they were when it was made. Belongs to a single thread."""

    def __init__(self, files: Sequence[ModelSource]) -> None:
        self._files = files
        self._states = self._read()
        self._next_look = 0.0

    @property
    def changed(self) -> bool:
        """Whether one is not as it was."""
        return self._read() != self._states

    def look(self) -> None:
        """Now and then, when it is called for each token: raise PackChangedError if one is not
        as it was."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _LOOK
        if self.changed:
            raise PackChangedError(PackChangedError.meaning, "Start it again")

    def _read(self) -> list[tuple[int, int]]:
        """What changes when somebody writes to a file: its size and time."""
        states = [os.fstat(file.descriptor) for file in self._files]
        return [(state.st_size, state.st_mtime_ns) for state in states]
