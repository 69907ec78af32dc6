from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from engine_fixtures import FACTS, NO_USAGE, ScriptedEngine, eventually
from test_commands import direct_broker

from runtime_stub.chat.commands import Commands
from runtime_stub.chat.conversation import Conversation
from runtime_stub.chat.files import Files
from runtime_stub.chat.loop import Chat
from runtime_stub.chat.pack_models import Prepared
from runtime_stub.confinement.broker import DirectBroker
from runtime_stub.engine.messages import (
    EngineSettings,
    Event,
    Failed,
    Finished,
    PromptRead,
    Request,
    Status,
    Text,
    Usage,
)
from runtime_stub.environment import Launch
from runtime_stub.errors import EngineError


class OneModel:
    names = ("only",)
    current = "only"
    prepared = Prepared(EngineSettings(), Request(), None)
    engine = ScriptedEngine()

    def switch(self, name: str) -> None:
        raise AssertionError(name)


class ScriptedFace:
    """Types prepared lines; `on_event` may do what a person does while reading."""

    def __init__(self, *lines: str, on_event: Callable[[Event], None] = lambda _: None) -> None:
        self._lines = list(lines)
        self._on_event = on_event
        self.screen = ""
        self.notices: list[str] = []
        self.defaults: list[str] = []
        self.listings: list[list[str]] = []

    def read(self, default: str = "") -> str | None:
        self.defaults.append(default)
        return self._lines.pop(0) if self._lines else None

    def begin(self) -> None:
        self.screen += "<"

    def show(self, event: Event) -> None:
        if isinstance(event, Text):
            self.screen += event.text
        self._on_event(event)

    def end(self, *, stopped: bool) -> None:
        self.screen += "!>" if stopped else ">"

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def listing(self, lines: list[str]) -> None:
        self.listings.append(lines)

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        self.screen += "["
        try:
            yield
        finally:
            self.screen += "]"


def said(*texts: str, usage: Usage = NO_USAGE, reason: str = "stop") -> list[Event | float]:
    return [PromptRead(1, 0), *map(Text, texts), Finished(reason, usage)]


def talk(
    engine: ScriptedEngine,
    face: ScriptedFace,
    template: Request | None = None,
    files: Files | None = None,
) -> None:
    conversation = Conversation(engine, None, template or Request())
    commands = Commands(conversation, OneModel(), files or Files(direct_broker(Path())))
    Chat(conversation, commands, face).run()


def test_lines_and_answers() -> None:
    face = ScriptedFace("one", "", "  ", "two")
    talk(ScriptedEngine(said("a", "b"), said("c")), face)
    assert face.screen == "<ab><c>"
    assert face.notices == []


def test_failure_is_a_notice() -> None:
    face = ScriptedFace("one", "two")
    talk(ScriptedEngine([Failed("prompt", "it fails", "Do this")], said("b")), face)
    assert face.notices == ["it fails. Do this"]
    assert face.screen == "<><b>"


def test_commands_are_not_asked() -> None:
    engine = ScriptedEngine(said("a"))
    face = ScriptedFace("/help", "/hlp", "/usr/bin is a folder", "/quit", "never")
    talk(engine, face)
    assert face.listings
    assert face.notices == ["there is no command /hlp. Did you mean /help?"]
    assert [request.messages[-1]["content"] for request in engine.requests] == [
        "/usr/bin is a folder"
    ]


def test_editing_the_last_question() -> None:
    engine = ScriptedEngine(said("a"), said("b"))
    face = ScriptedFace("one", "/edit", "two")
    talk(engine, face)
    assert "one" in face.defaults
    assert [m["content"] for m in engine.requests[-1].messages] == ["two"]


@pytest.mark.parametrize(
    ("editor", "asked", "told"),
    [
        ("printf 'two\n lines\n' >", "two\n lines", []),
        ("true", None, ["The question is as it was. /retry asks it again"]),
        ("echo >", None, ["Nothing is left of the question: it is not asked"]),
        ("false", None, ["the editor failed; the question stays as it was"]),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="editors that are shell scripts")
def test_editing_in_an_editor_of_ones_own(
    tmp_path: Path, editor: str, asked: str | None, told: list[str]
) -> None:
    script = tmp_path / "editor"
    script.write_text(f'#!/bin/sh\n{editor} "$1"\n')
    script.chmod(0o755)
    host = {"VISUAL": str(script), "PATH": os.environ["PATH"]}
    broker = DirectBroker(Launch(-1, tmp_path, tmp_path, tmp_path, "pack", host))
    engine = ScriptedEngine(said("a"), said("b"))
    face = ScriptedFace("one", "/edit")
    talk(engine, face, files=Files(broker, edits=True))
    assert face.notices == told
    assert "[" in face.screen
    questions = [[m["content"] for m in request.messages] for request in engine.requests]
    assert questions == [["one"], *([[asked]] if asked else [])]
    assert face.listings == ([["> two", ">  lines"]] if asked else [])


def test_input_that_ends_while_editing() -> None:
    talk(ScriptedEngine(said("a")), ScriptedFace("one", "/edit"))


def test_forgetting_is_told_once() -> None:
    too_long: list[Event | float] = [Failed("too-long", "x")]
    face = ScriptedFace("a", "b", "c")
    talk(ScriptedEngine(said("1"), too_long, said("2"), said("3")), face)
    assert len(face.notices) == 1
    assert "oldest question and answer" in face.notices[0]


def test_nearly_full_is_told_before_it_is_full() -> None:
    """Once, and again only after there was room."""
    sizes = [50, 81, 85, 20, 90]
    engine = ScriptedEngine(
        *[said("a", usage=Usage(size - 5, 0, 5, 0.1, 0.1)) for size in sizes],
        facts=FACTS,
        count=lambda _: 1,
    )
    face = ScriptedFace(*map(str, sizes))
    talk(engine, face)
    assert [notice.split(" full")[0] for notice in face.notices] == [
        "The context is 81%",
        "The context is 90%",
    ]


@pytest.mark.parametrize(("limit", "words"), [(5, "limit of 5 tokens"), (None, "context is full")])
def test_cut_answer_is_said_to_be_one(limit: int | None, words: str) -> None:
    face = ScriptedFace("a")
    engine = ScriptedEngine(said("a", usage=Usage(1, 0, 5, 1, 1), reason="length"))
    talk(engine, face, Request(max_tokens=limit))
    assert words in face.notices[0]


def test_ctrl_c_stops_only_the_answer() -> None:
    def interrupt(event: Event) -> None:
        if event == Text("b"):
            os.kill(os.getpid(), signal.SIGINT)

    face = ScriptedFace("one", "two", on_event=interrupt)
    engine = ScriptedEngine([PromptRead(1, 0), Text("a"), Text("b")], said("c"))
    before = signal.getsignal(signal.SIGINT)
    talk(engine, face)
    assert signal.getsignal(signal.SIGINT) is before
    assert eventually(engine.tickets[0].cancelled.is_set)
    assert face.screen == "<ab!><c>"
    assert [message["content"] for message in engine.requests[1].messages] == ["one", "ab", "two"]


def test_engine_that_could_not_load_ends_the_chat() -> None:
    engine = ScriptedEngine([Failed("engine", "no such model")], status=Status("failed"))
    with pytest.raises(EngineError, match="no such model"):
        talk(engine, ScriptedFace("one", "two"))


def test_engine_that_fails_later_leaves_the_conversation_to_be_saved(tmp_path: Path) -> None:
    engine = ScriptedEngine(said("a"), [Failed("engine", "broken")], status=Status("failed"))
    face = ScriptedFace("one", "two", f"/save {tmp_path / 'talk'}")
    talk(engine, face)
    assert face.notices[0] == "broken"
    assert "/save" in face.notices[1]
    assert '"one"' in (tmp_path / "talk").read_text()


def test_fallback_template_is_told_once() -> None:
    from dataclasses import replace

    facts = replace(FACTS, template="fallback ChatML")
    engine = ScriptedEngine(said("a"), said("b"), facts=facts, count=lambda _: 1)
    face = ScriptedFace("one", "two")
    talk(engine, face)
    assert face.notices == ["The model came without a chat template; ChatML is used"]
