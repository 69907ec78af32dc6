"""A conversation: exchanges that grow, of which the newest are sent along while they fit."""

from __future__ import annotations

import queue
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace

from runtime_stub.chat.counts import Statistics
from runtime_stub.chat.transcript import Exchange, Transcript
from runtime_stub.engine.interface import AnyEngine, answer
from runtime_stub.engine.messages import (
    LAST_EVENTS,
    Event,
    Failed,
    Finished,
    Reasoning,
    Request,
    Text,
    TokenizeRequest,
    Tokens,
    Usage,
)

Messages = tuple[dict[str, str], ...]

NEARLY_FULL = 0.8
"""The share of the context from which on a person is told."""
_ANSWER_ROOM = 512
_CANCEL_SECONDS = 2.0
_LOADED_STEPS = 100
"""How many exchanges of a loaded conversation can be taken back one by one."""


@dataclass(frozen=True)
class _State:
    """What can be taken back."""

    system: str | None
    exchanges: tuple[Exchange, ...] = ()


class Conversation:
    """Keeps one chat and asks the engine to continue it. Belongs to one thread, but `stop`."""

    def __init__(
        self, engine: AnyEngine, system: str | None, template: Request, *, pack: str = ""
    ) -> None:
        """`template` carries the sampling settings and limits of every request."""
        self.engine = engine
        self.template = template
        self._pack = pack
        self._state = _State(system or None)
        self._past: list[_State] = []
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        """Of the request in flight; None breaks it off."""
        self._stopped = False
        self.statistics = Statistics()
        self.forgotten = 0
        """How many of the oldest exchanges no longer fit the context, and are not sent."""
        self.question: str | None = None
        """What was asked last, answered or not."""

    @property
    def system(self) -> str | None:
        """The system prompt."""
        return self._state.system

    @property
    def exchanges(self) -> tuple[Exchange, ...]:
        """All questions and answers so far, forgotten ones included."""
        return self._state.exchanges

    @property
    def context(self) -> int:
        """Tokens of context; 0 while the engine has none."""
        facts = self.engine.facts
        return facts.context if facts is not None else 0

    @property
    def transcript(self) -> Transcript:
        """The whole conversation, to be saved."""
        return Transcript(self.system, self.exchanges, self._pack)

    def say(self, text: str, *, again: bool = False) -> Generator[Event, None, None]:
        """Events of the answer to `text`. What was answered, even in part, is remembered;
        a question that fails is not. After `stop` it ends early, with Finished("cancelled").

        With `again` it takes the place of the last exchange, once it is answered.
        """
        self.question = text
        self._stopped = False
        before = self.exchanges[:-1] if again else self.exchanges
        written = ""
        answered = False
        usage: Usage | None = None
        first: float | None = None
        started = time.monotonic()
        dropped = self.forgotten
        try:
            for dropped, event in self._answers(before, text):  # noqa: B007  (read when it is over)
                if isinstance(event, (Text, Reasoning)) and first is None:
                    first = time.monotonic() - started
                if isinstance(event, Text):
                    written += event.text
                if isinstance(event, Finished):
                    usage = event.usage
                    answered = answered or event.reason != "cancelled"
                answered = answered or isinstance(event, Text)
                yield event
        finally:
            # What does not fit at all must not cost what came before it.
            if answered:
                self.forgotten = dropped
                self._change(exchanges=(*before, Exchange(text, written)))
            if usage is not None and usage.prompt_tokens:
                self.statistics = self.statistics.after(usage, first)

    def stop(self) -> None:
        """Break off the answer. Safe to call from a signal handler."""
        self._stopped = True
        self._events.put(None)

    def take_back(self) -> None:
        """Undo the last change: an answer with its question, a `clear`, `instruct` or `load`.

        Raises IndexError when there is nothing to undo.
        """
        self._state = self._past.pop()
        self.forgotten = min(self.forgotten, len(self.exchanges))
        self.question = self.exchanges[-1].question if self.exchanges else None

    def use(self, engine: AnyEngine, template: Request, system: str | None) -> None:
        """Go on with another engine, and what holds for it. That is not taken back."""
        self.engine = engine
        self.template = template
        self._state = replace(self._state, system=system or None)
        self.forgotten = 0

    def clear(self) -> None:
        """Begin anew, with the same system prompt."""
        self._change(exchanges=())
        self.forgotten = 0
        self.question = None
        self.statistics = Statistics()

    def instruct(self, system: str | None) -> None:
        """Use another system prompt from now on."""
        self._change(system=system or None)

    def load(self, transcript: Transcript) -> None:
        """Go on with a saved conversation. It can be taken back exchange by exchange, and then
        as a whole."""
        exchanges = transcript.exchanges
        for length in range(max(0, len(exchanges) - _LOADED_STEPS), len(exchanges) + 1):
            self._change(system=transcript.system, exchanges=exchanges[:length])
        self.forgotten = 0
        self.question = exchanges[-1].question if exchanges else None

    def _change(self, **changes: object) -> None:
        self._past.append(self._state)
        self._state = replace(self._state, **changes)  # type: ignore[arg-type]

    # Asking

    def _answers(self, before: tuple[Exchange, ...], text: str) -> Iterator[tuple[int, Event]]:
        """Each event, and how many exchanges were left out to get it."""
        dropped = self._fitting(before, text)
        while True:
            for event in self._ask(self._messages(before[dropped:], text)):
                too_long = isinstance(event, Failed) and event.kind == "too-long"
                if too_long and dropped < len(before):
                    break
                yield dropped, event
            else:
                return
            dropped += 1

    def _ask(self, messages: Messages) -> Iterator[Event]:
        events = self._events = queue.SimpleQueue()
        if self._stopped:  # while it was being prepared
            events.put(None)
        ticket = self.engine.submit(replace(self.template, messages=messages), events.put)
        try:
            while True:
                event = events.get()
                if event is None:
                    ticket.cancel()
                    yield _last_of(events)
                    return
                yield event
                if isinstance(event, LAST_EVENTS):
                    return
        finally:
            ticket.cancel()

    def _messages(self, exchanges: tuple[Exchange, ...], text: str) -> Messages:
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for exchange in exchanges:
            messages.append({"role": "user", "content": exchange.question})
            messages.append({"role": "assistant", "content": exchange.answer})
        return (*messages, {"role": "user", "content": text})

    def _fitting(self, before: tuple[Exchange, ...], text: str) -> int:
        """How many of the oldest exchanges to leave out so that there is room for an answer.

        When some must go, more go than need be: what is left has to be read anew.
        """
        context, dropped = self.context, min(self.forgotten, len(before))
        room = min(self.template.max_tokens or _ANSWER_ROOM, context // 4)
        limit = context - room
        while context and dropped < len(before):
            messages = self._messages(before[dropped:], text)
            # There are hardly ever more tokens than bytes, and counting takes time.
            if sum(len(message["content"].encode()) for message in messages) < limit // 2:
                break
            tokens = self._count(messages)
            if tokens is None or tokens <= limit:
                break
            limit = (context - room) * 3 // 4
            dropped += 1
        return dropped

    def _count(self, messages: Messages) -> int | None:
        """How many tokens the messages are; None when that can't be told."""
        event = next(iter(answer(self.engine, TokenizeRequest(messages=messages))))
        return len(event.tokens) if isinstance(event, Tokens) else None


def _last_of(events: queue.SimpleQueue[Event | None]) -> Event:
    """The event that ends a cancelled request, waited for only so long."""
    until = time.monotonic() + _CANCEL_SECONDS
    while True:
        try:
            event = events.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            return Finished("cancelled", Usage(0, 0, 0, 0.0, 0.0))
        if isinstance(event, Finished):
            return Finished("cancelled", event.usage)
        if isinstance(event, LAST_EVENTS):
            return Finished("cancelled", Usage(0, 0, 0, 0.0, 0.0))
