"""A conversation: turns that grow, and are forgotten oldest first when they no longer fit."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import replace

from runtime_stub.engine.engine import Engine
from runtime_stub.engine.messages import Event, Failed, Finished, Request, Text


class Conversation:
    """Keeps the turns of one chat and asks the engine to continue it."""

    def __init__(self, engine: Engine, system: str | None, template: Request) -> None:
        """`template` carries the sampling settings and limits of every request."""
        self._engine = engine
        self._system = system
        self._template = template
        self._turns: list[dict[str, str]] = []
        self.forgotten = 0
        """How many of the oldest turns no longer fit the context."""

    def say(self, text: str) -> Generator[Event, None, None]:
        """Events of the answer to `text`. What was answered, even in part, is remembered;
        a prompt that fails is not."""
        asked = {"role": "user", "content": text}
        answer = ""
        answered = False
        dropped = 0
        try:
            for dropped, event in self._events(asked):  # noqa: B007  (read when it is over)
                if isinstance(event, Text):
                    answer += event.text
                answered = answered or isinstance(event, (Text, Finished))
                yield event
        finally:
            # What does not fit at all must not cost the turns before it.
            if answered:
                del self._turns[:dropped]
                self.forgotten += dropped
                self._turns += [asked, {"role": "assistant", "content": answer}]

    def _events(self, asked: dict[str, str]) -> Iterator[tuple[int, Event]]:
        """Each event, and how many turns were left out to get it."""
        for dropped in range(0, len(self._turns) + 1, 2):
            for event in self._engine.answer(self._request(dropped, asked)):
                too_long = isinstance(event, Failed) and event.kind == "too-long"
                if too_long and dropped < len(self._turns):
                    break
                yield dropped, event
            else:
                return

    def _request(self, dropped: int, asked: dict[str, str]) -> Request:
        system = [{"role": "system", "content": self._system}] if self._system else []
        return replace(self._template, messages=(*system, *self._turns[dropped:], asked))
