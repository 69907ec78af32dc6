"""A conversation: turns that grow, and are forgotten oldest first when they no longer fit."""

from __future__ import annotations

from collections.abc import Iterator
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

    def say(self, text: str) -> Iterator[Event]:
        """Events of the answer to `text`. What was answered, even in part, is remembered;
        a prompt that fails is not."""
        self._turns.append({"role": "user", "content": text})
        answer = ""
        answered = False
        try:
            for event in self._events():
                if isinstance(event, Text):
                    answer += event.text
                answered = answered or isinstance(event, (Text, Finished))
                yield event
        finally:
            if answered:
                self._turns.append({"role": "assistant", "content": answer})
            else:
                self._turns.pop()

    def _events(self) -> Iterator[Event]:
        while True:
            dropped = False
            for event in self._engine.answer(self._request()):
                too_long = isinstance(event, Failed) and event.kind == "too-long"
                if too_long and len(self._turns) > 2:
                    del self._turns[:2]
                    self.forgotten += 2
                    dropped = True
                    break
                yield event
            if not dropped:
                return

    def _request(self) -> Request:
        system = [{"role": "system", "content": self._system}] if self._system else []
        return replace(self._template, messages=(*system, *self._turns))
