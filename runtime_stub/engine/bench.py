"""What the tasks that a measurement consists of are run with."""

from __future__ import annotations

import time
from collections.abc import Callable

from runtime_stub.engine.context import DEFAULT_BATCH, Context, ContextSize
from runtime_stub.engine.library import library
from runtime_stub.engine.messages import EngineSettings
from runtime_stub.engine.model import Model

_CONTEXT = 1024
_SHORT = 0.05
"""Seconds that a step may take without asking within it whether to stop."""


class OutOfTime(Exception):  # noqa: N818  (no error: an end)
    """A step was not finished."""


class Bench:
    """A small context, and tasks whose time is taken."""

    def __init__(
        self,
        model: Model,
        settings: EngineSettings,
        threads: int,
        check: Callable[[], None],
        stop: Callable[[], bool],
    ) -> None:
        """`check` is called between steps, and may raise; `stop` ends steps that take long.
        Raises EngineError."""
        self._vocabulary = min(256, model.vocabulary_size)
        self.context = Context(model, ContextSize(_CONTEXT, "to measure"), settings, threads)
        self._check = check
        self._stop = stop
        self._held = 0
        self.context.stop_when(stop)

    def read(self, count: int, piece: int = DEFAULT_BATCH) -> float:
        """Seconds to read `count` tokens from the beginning, `piece` at a time."""
        self._held = self.context.keep(0, 0)
        return sum(self._step(min(piece, count - start)) for start in range(0, count, piece))

    def generate(self, count: int, depth: int, *, width: int = 1) -> float:
        """Seconds for `count` steps of `width` tokens, after `depth` others."""
        self._held = self.context.keep(0, min(depth, self._held))
        if self._held < depth:
            self._step(depth - self._held)
        return sum(self._step(width) for _ in range(count))

    def hurry(self, slowest: float) -> None:
        """Steps take at most `slowest` seconds: don't ask within them if that is short."""
        if slowest < _SHORT:
            self.context.stop_when(None)

    def _step(self, count: int) -> float:
        self._check()
        context = self.context
        context.clear_batch()
        for position in range(self._held, self._held + count):
            context.add(
                position % self._vocabulary, position, 0, output=position == self._held + count - 1
            )
        started = time.monotonic()
        code = context.decode()
        library().llama_synchronize(context.handle)
        seconds = time.monotonic() - started
        self._held += count
        if code:
            self._check()
            raise OutOfTime
        return seconds
