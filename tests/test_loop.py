from __future__ import annotations

from collections.abc import Callable

import pytest
from engine_fixtures import NO_USAGE, ScriptedEngine, eventually

from runtime_stub.chat.conversation import Conversation
from runtime_stub.chat.loop import chat
from runtime_stub.engine.messages import (
    AnyRequest,
    Event,
    Failed,
    Finished,
    PromptRead,
    Reasoning,
    Request,
    Text,
)

INTERRUPT = "^C"


class ScriptedTerminal:
    """Types prepared lines; `on_write` may do what a person does while reading."""

    reasoned = ""

    def __init__(self, *lines: str, on_write: Callable[[str], None] = lambda text: None) -> None:
        self._lines = list(lines)
        self._on_write = on_write
        self.screen = ""
        self.notices: list[str] = []

    def read_line(self) -> str | None:
        if not self._lines:
            return None
        line = self._lines.pop(0)
        if line == INTERRUPT:
            raise KeyboardInterrupt
        return line

    def write(self, text: str) -> None:
        self.screen += text
        self._on_write(text)

    def reason(self, text: str) -> None:
        self.reasoned += text

    def notice(self, text: str) -> None:
        self.notices.append(text)


def said(*texts: str) -> list[Event | float]:
    return [PromptRead(1, 0), *map(Text, texts), Finished("stop", NO_USAGE)]


def talk(engine: ScriptedEngine, terminal: ScriptedTerminal) -> list[Event]:
    events: list[Event] = []
    chat(Conversation(engine, None, Request()), terminal, events.append)
    return events


def test_lines_and_answers() -> None:
    terminal = ScriptedTerminal("one", "", "  ", "two")
    events = talk(ScriptedEngine(said("a", "b"), said("c")), terminal)
    assert terminal.screen == "ab\n\nc\n\n"
    assert terminal.notices == []
    assert [type(event).__name__ for event in events] == [
        *["PromptRead", "Text", "Text", "Finished"],
        *["PromptRead", "Text", "Finished"],
    ]


def test_reasoning_is_told_apart() -> None:
    terminal = ScriptedTerminal("?")
    talk(ScriptedEngine([Reasoning("hm"), Text("a"), Finished("stop", NO_USAGE)]), terminal)
    assert terminal.reasoned == "hm"


def test_failure_is_a_notice() -> None:
    terminal = ScriptedTerminal("one", "two")
    talk(ScriptedEngine([Failed("prompt", "it fails", "Do this")], said("b")), terminal)
    assert terminal.notices == ["it fails. Do this"]
    assert "b" in terminal.screen


def test_forgetting_is_told_once() -> None:
    too_long: list[Event | float] = [Failed("too-long", "x")]
    terminal = ScriptedTerminal("a", "b", "c")
    talk(ScriptedEngine(said("1"), too_long, said("2"), said("3")), terminal)
    assert len(terminal.notices) == 1
    assert "oldest 2 messages" in terminal.notices[0]


def test_ctrl_c_stops_only_the_answer() -> None:
    def interrupt(text: str) -> None:
        if text == "b":
            raise KeyboardInterrupt

    terminal = ScriptedTerminal("one", "two", on_write=interrupt)
    engine = ScriptedEngine([PromptRead(1, 0), Text("a"), Text("b")], said("c"))
    talk(engine, terminal)
    assert eventually(engine.tickets[0].cancelled.is_set)
    assert terminal.screen == "ab [stopped]\n\nc\n\n"
    assert [message["content"] for message in engine.requests[1].messages] == ["one", "ab", "two"]


def test_ctrl_c_while_the_engine_thinks() -> None:
    engine = ScriptedEngine([PromptRead(1, 0), Text("a")], said("b"))
    real = engine.answer

    def answer(request: AnyRequest):  # type: ignore[no-untyped-def]
        for event in real(request):
            yield event
            if event == Text("a"):
                raise KeyboardInterrupt

    engine.answer = answer  # type: ignore[method-assign]
    terminal = ScriptedTerminal("one", "two")
    talk(engine, terminal)
    assert terminal.screen == "a [stopped]\n\nb\n\n"
    assert len(engine.requests[1].messages) == 3


def test_ctrl_c_at_the_prompt_leaves() -> None:
    with pytest.raises(KeyboardInterrupt):
        talk(ScriptedEngine(), ScriptedTerminal(INTERRUPT))
