"""Texts to vectors, and documents to scores, piece by piece: between two of them others are
answered."""

from __future__ import annotations

import math
import time
from array import array
from collections import deque
from collections.abc import Callable
from typing import Any

from runtime_stub.engine.inputs import Inputs
from runtime_stub.engine.job import Job
from runtime_stub.engine.messages import (
    Embeddings,
    EmbedRequest,
    Event,
    Failed,
    Finished,
    Mix,
    RerankRequest,
    Scores,
    Usage,
)
from runtime_stub.engine.model import Model
from runtime_stub.engine.vector_context import PIECE, VectorContext
from runtime_stub.errors import EngineError, PromptError

BESIDE = 16
"""Tokens of a long text that are read between two steps of others: about the fewest of which each
takes hardly longer than one of many does."""
_AT_ONCE = 4
"""Requests that take turns, from text to text. Each holds what it has so far, so that there are
not more; those that come later wait."""


class Embedder:
    """Owns the context for embeddings. All methods belong to the thread that it was made in."""

    def __init__(
        self,
        model: Model,
        threads: int,
        reserved: int = 0,
        apply: Callable[[Any, Mix], None] = lambda _context, _mix: None,
    ) -> None:
        """So many bytes of the memory that is free are `reserved` for others. `apply` lets a
        context compute with other adapters."""
        self._context = VectorContext(model, threads, reserved, apply)
        self._inputs = Inputs(model, self._context.largest)
        self._works: deque[_Work] = deque()
        """The first is the one whose text is read."""

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._works

    def add(self, job: Job) -> None:
        """Take an EmbedRequest or a RerankRequest in."""
        work = _Work(job)
        if work.complete:
            job.send(work.outcome())
        else:
            self._works.append(work)

    def step(self, *, beside: bool = False) -> None:
        """Read one piece: a text, or a part of a long one where the model allows that, a small
        one if others are answered `beside`."""
        self._drop_abandoned()
        if not self._works:
            return
        work = self._works[0]
        try:
            if not self._context.reading:
                self._context.begin(work.tokens_of_next(self._inputs), work.job.mix)
            values = self._context.read(BESIDE if beside else PIECE)
        except PromptError as error:
            self._end(work, Failed("prompt", error.message, error.hint))
            return
        except EngineError as error:
            self._end(work, Failed("unsupported", error.message, error.hint))
            return
        if values is None:
            return
        work.take(values)
        if work.complete:
            self._end(work, work.outcome())
        else:
            self._works.popleft()
            self._works.insert(_AT_ONCE - 1, work)

    def free(self) -> None:
        """Release the context."""
        self._context.free()

    def _drop_abandoned(self) -> None:
        now = time.monotonic()
        for work in list(self._works):
            if work.job.cancelled:
                self._end(work, Finished("cancelled", Usage(work.tokens, 0, 0, 0.0, 0.0)))
            elif now > work.job.deadline:
                late = "took too long" if work.begun else "waited too long for its turn"
                self._end(work, Failed("timeout", f"the request {late}"))

    def _end(self, work: _Work, event: Event) -> None:
        if work is self._works[0]:
            self._context.leave()
        self._works.remove(work)
        work.job.send(event)
        self._context.rest()


class _Work:
    """A request, and what is there of its answer."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.tokens = 0
        """How many were read, those of the text that is being read included."""
        self._results: list[array[float]] = []

    @property
    def _wanted(self) -> tuple[str, ...]:
        request = self.job.request
        if isinstance(request, EmbedRequest):
            return request.texts
        return request.documents if isinstance(request, RerankRequest) else ()

    @property
    def begun(self) -> bool:
        """Whether anything was read for it."""
        return self.tokens > 0

    @property
    def complete(self) -> bool:
        """Whether nothing is left to read."""
        return len(self._results) == len(self._wanted)

    def tokens_of_next(self, inputs: Inputs) -> list[int]:
        """What is to be read next. Raises PromptError."""
        request, text = self.job.request, self._wanted[len(self._results)]
        if isinstance(request, RerankRequest):
            tokens = inputs.pair(request.query, text)
        else:
            truncate = isinstance(request, EmbedRequest) and request.truncate
            tokens = inputs.text(text, truncate=truncate)
        self.tokens += len(tokens)
        return tokens

    def take(self, values: tuple[float, ...]) -> None:
        """Keep what came of the text that was read."""
        request = self.job.request
        if isinstance(request, EmbedRequest) and request.normalise:
            length = math.sqrt(math.fsum(value * value for value in values)) or 1.0
            values = tuple(value / length for value in values)
        # As tuples they would take four times the memory, for as long as the rest is read.
        self._results.append(array("d", values))

    def outcome(self) -> Embeddings | Scores:
        """The answer."""
        if isinstance(self.job.request, RerankRequest):
            return Scores(tuple(values[0] for values in self._results), self.tokens)
        return Embeddings(tuple(map(tuple, self._results)), self.tokens)
