"""Requests that are answered as if they were one with more choices, a few choices at a time.

a request for each prompt      each with as many choices as are asked for
parts of these                 each with as many as are worked on at once, or the rest
the engine                     as many of them as it works on at once, the next when one ends
"""

from __future__ import annotations

import functools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from runtime_stub.engine.interface import AnyTicket, Sink
from runtime_stub.engine.messages import (
    AnyRequest,
    ChoiceEnd,
    Event,
    Failed,
    Finished,
    PromptRead,
    Reasoning,
    Request,
    Text,
    ToolCall,
    Usage,
)
from runtime_stub.server.state import Engine

_SEEDS = 2**32


def submit_all(
    engine: Engine,
    requests: Sequence[AnyRequest],
    sink: Sink,
    at_once: int | None = None,
    seconds: float = 0.0,
) -> Callable[[], None]:
    """Submit them, no more than `at_once` choices at a time; returns what cancels them all.

    Of several (all of type Request), the choices are numbered one request after the other. What
    each is answered does not depend on `at_once`: a seed counts on from choice to choice.
    PromptRead comes first, once; one Finished ends all, with their usage added up, each prompt's
    once. If one fails, the others are cancelled, and its Failed is the end; so it is when they
    take more than `seconds` together, 0 for no limit.
    """
    asked = [request for request in requests if isinstance(request, Request)]
    parts = list(_parts(asked, at_once or sum(request.choices for request in asked)))
    if len(parts) <= 1:
        return engine.submit(requests[0], sink).cancel
    joined = _Joined(engine, parts, at_once or math.inf, sink, seconds)
    joined.start()
    return joined.cancel


@dataclass(frozen=True)
class _Part:
    """Some of the choices of a request, as a request."""

    request: Request
    first: int
    """What the first of them is numbered among all choices of all requests."""
    again: bool
    """Whether an earlier part has the same prompt."""


def _parts(requests: Iterable[Request], at_once: int) -> Iterator[_Part]:
    number = 0
    for request in requests:
        for start in range(0, request.choices, at_once):
            count = min(at_once, request.choices - start)
            yield _Part(_portion(request, start, count), number + start, start > 0)
        number += request.choices


def _portion(request: Request, start: int, count: int) -> Request:
    """`count` choices of it, from number `start` on."""
    sampling = request.sampling
    if start and sampling.seed is not None:  # which the engine adds the choice's number to
        sampling = replace(sampling, seed=(sampling.seed + start) % _SEEDS)
    return replace(request, choices=count, sampling=sampling)


class _Joined:
    def __init__(
        self, engine: Engine, parts: Iterable[_Part], room: float, sink: Sink, seconds: float
    ) -> None:
        self._engine = engine
        self._to = sink
        self._waiting = deque(parts)
        self._room = room
        """How many choices may be submitted."""
        self._running = 0
        """Parts that were submitted and have not ended."""
        self._tickets: list[AnyTicket] = []
        self._until = time.monotonic() + (seconds or math.inf)
        self._lock = threading.RLock()  # engines may answer from within submit or cancel
        self._begun = self._over = False
        self._first: Finished | None = None
        """The end of the first part."""
        self._usage = Usage(0, 0, 0, 0.0, 0.0)

    def start(self) -> None:
        """Submit what there is room for."""
        with self._lock:
            while self._waiting and not self._over:
                choices = self._waiting[0].request.choices
                if choices > self._room and self._running:
                    return
                part = self._waiting.popleft()
                self._room -= choices
                self._running += 1
                take = functools.partial(self._take, part)
                self._tickets.append(self._engine.submit(part.request, take))
            if self._over:  # with what was submitted last
                self._cancel()

    def cancel(self) -> None:
        """Submit no more, and have what was submitted end soon."""
        with self._lock:
            self._waiting.clear()
            self._cancel()

    def _cancel(self) -> None:
        for ticket in list(self._tickets):
            ticket.cancel()

    def _take(self, part: _Part, event: Event) -> None:
        with self._lock:
            if self._over:
                return
            if isinstance(event, Finished):
                self._end(part, event)
            elif isinstance(event, Failed):
                self._fail(part, event)
            elif time.monotonic() > self._until:
                self._give_up(Failed("timeout", "the request took too long"))
            elif isinstance(event, PromptRead):
                if not self._begun:
                    self._begun = True
                    self._to(event)
            elif isinstance(event, (Text, Reasoning, ToolCall, ChoiceEnd)):
                self._to(replace(event, choice=event.choice + part.first))

    def _end(self, part: _Part, event: Finished) -> None:
        # Requests end without a ChoiceEnd when they are cancelled; then nobody listens.
        self._usage = _sum(self._usage, event.usage, again=part.again)
        self._running -= 1
        self._room += part.request.choices
        if part.first == 0:
            self._first = event
        self.start()
        if not (self._over or self._running or self._waiting):
            self._over = True
            first = self._first or event
            self._to(Finished(first.reason, self._usage, first.stop))

    def _fail(self, part: _Part, event: Failed) -> None:
        if event.kind == "busy" and self._running > 1:
            # There is no place for so many: this one comes when one of the others has ended.
            self._running -= 1
            self._room = 0
            self._waiting.appendleft(part)
        else:
            self._give_up(event)

    def _give_up(self, event: Failed) -> None:
        self._over = True
        self._waiting.clear()
        self._to(event)
        self._cancel()


def _sum(one: Usage, other: Usage, *, again: bool) -> Usage:
    """Both together; `again` if the other's prompt is counted in the one's."""
    return Usage(
        one.prompt_tokens + (0 if again else other.prompt_tokens),
        one.cached_tokens + (0 if again else other.cached_tokens),
        one.completion_tokens + other.completion_tokens,
        one.prompt_seconds + other.prompt_seconds,
        one.completion_seconds + other.completion_seconds,
    )
