"""The plain chat: a line in, an answer out."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from typing import Protocol

from runtime_stub.chat.conversation import Conversation
from runtime_stub.engine.messages import Event, Failed, Reasoning, Text


class Terminal(Protocol):
    """What the loop needs of whoever sits in front of it."""

    def read_line(self) -> str | None:
        """A line without its end; None when there will be no more."""

    def write(self, text: str) -> None:
        """Show text at once."""

    def reason(self, text: str) -> None:
        """Show what the model thinks before it answers, told apart from the answer."""

    def notice(self, text: str) -> None:
        """Tell something that is not part of the answer."""


def chat(conversation: Conversation, terminal: Terminal, on_event: Callable[[Event], None]) -> None:
    """Converse until the input ends. Ctrl-C stops an answer; waiting for a line it is raised.

    `on_event` sees every event of the engine.
    """
    forgotten = 0
    while (line := terminal.read_line()) is not None:
        if not line.strip():
            continue
        _show(conversation.say(line), terminal, on_event)
        if conversation.forgotten > forgotten:
            forgotten = conversation.forgotten
            terminal.notice(f"The context is full: the oldest {forgotten} messages are forgotten.")


def _show(
    events: Generator[Event, None, None], terminal: Terminal, on_event: Callable[[Event], None]
) -> None:
    try:
        # Closed, however it ends: then the engine stops, and what was said is remembered.
        with closing(events):
            for event in events:
                on_event(event)
                if isinstance(event, Text):
                    terminal.write(event.text)
                elif isinstance(event, Reasoning):
                    terminal.reason(event.text)
                elif isinstance(event, Failed):
                    terminal.notice(f"{event.message}. {event.hint}".strip())
    except KeyboardInterrupt:
        terminal.write(" [stopped]")
    terminal.write("\n\n")
