"""Several requests that are answered as if they were one with more choices."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

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


def submit_all(engine: Engine, requests: Sequence[AnyRequest], sink: Sink) -> Callable[[], None]:
    """Submit them; returns what cancels them all.

    Of several (all of type Request, with equally many choices), choice C of request R comes as
    number R * choices + C. PromptRead comes first, once; one Finished ends all, with their
    usage added up. If one fails, the others are cancelled, and its Failed is the end.
    """
    if len(requests) == 1:
        return engine.submit(requests[0], sink).cancel
    joined = _Joined(len(requests), sink)
    for number, request in enumerate(requests):
        choices = request.choices if isinstance(request, Request) else 1
        joined.tickets.append(engine.submit(request, joined.sink(number * choices)))
    if joined.failed:  # before all were submitted
        joined.cancel()
    return joined.cancel


class _Joined:
    def __init__(self, count: int, sink: Sink) -> None:
        self.tickets: list[AnyTicket] = []
        self.failed = False
        self._left = count
        self._to = sink
        self._lock = threading.RLock()  # engines may answer from within submit or cancel
        self._begun = False
        self._usage = Usage(0, 0, 0, 0.0, 0.0)

    def sink(self, shift: int) -> Sink:
        """Where the events of the request go whose first choice has number `shift`."""

        def take(event: Event) -> None:
            with self._lock:
                self._take(event, shift)

        return take

    def cancel(self) -> None:
        for ticket in list(self.tickets):
            ticket.cancel()

    def _take(self, event: Event, shift: int) -> None:
        if self.failed:
            return
        if isinstance(event, PromptRead):
            if not self._begun:
                self._begun = True
                self._to(event)
        elif isinstance(event, Finished):
            # Requests end without a ChoiceEnd when they are cancelled; then nobody listens.
            self._left -= 1
            self._usage = _sum(self._usage, event.usage)
            if self._left == 0:
                self._to(Finished(event.reason, self._usage))
        elif isinstance(event, Failed):
            self.failed = True
            self._to(event)
            self.cancel()
        elif isinstance(event, (Text, Reasoning, ToolCall, ChoiceEnd)):
            self._to(replace(event, choice=event.choice + shift))


def _sum(one: Usage, other: Usage) -> Usage:
    return Usage(
        one.prompt_tokens + other.prompt_tokens,
        one.cached_tokens + other.cached_tokens,
        one.completion_tokens + other.completion_tokens,
        one.prompt_seconds + other.prompt_seconds,
        one.completion_seconds + other.completion_seconds,
    )
