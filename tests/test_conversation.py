from __future__ import annotations

from collections.abc import Generator
from contextlib import closing

import pytest
from engine_fixtures import NO_USAGE, ScriptedEngine, eventually

from runtime_stub.chat.conversation import Conversation
from runtime_stub.engine.messages import (
    Event,
    Failed,
    Finished,
    PromptRead,
    Request,
    Sampling,
    Text,
)

TOO_LONG = Failed("too-long", "too long", "Shorten it")
TEMPLATE = Request(sampling=Sampling(top_k=7), max_tokens=9, stop=("END",))


def said(*texts: str, reason: str = "stop") -> list[Event | float]:
    return [PromptRead(1, 0), *map(Text, texts), Finished(reason, NO_USAGE)]


def talk(engine: ScriptedEngine, *lines: str, system: str | None = "Be brief.") -> Conversation:
    conversation = Conversation(engine, system, TEMPLATE)
    for line in lines:
        list(conversation.say(line))
    return conversation


def asked(engine: ScriptedEngine, index: int = -1) -> list[str]:
    """The contents of a request's messages, with the first letter of their roles."""
    return [f"{m['role'][0]}:{m['content']}" for m in engine.requests[index].messages]


def test_turns_grow() -> None:
    engine = ScriptedEngine(said("a", "b"), said("c"), said("d"))
    talk(engine, "one", "two", "three")
    assert asked(engine, 0) == ["s:Be brief.", "u:one"]
    assert asked(engine) == ["s:Be brief.", "u:one", "a:ab", "u:two", "a:c", "u:three"]


@pytest.mark.parametrize("system", [None, ""])
def test_without_system_prompt(system: str | None) -> None:
    engine = ScriptedEngine(said("a"))
    talk(engine, "one", system=system)
    assert asked(engine) == ["u:one"]


def test_settings_go_along() -> None:
    engine = ScriptedEngine(said("a"))
    talk(engine, "one")
    request = engine.requests[0]
    assert (request.sampling, request.max_tokens, request.stop) == (
        TEMPLATE.sampling,
        TEMPLATE.max_tokens,
        TEMPLATE.stop,
    )


def test_events_are_passed_on() -> None:
    engine = ScriptedEngine(said("a"))
    assert list(Conversation(engine, None, TEMPLATE).say("x")) == said("a")


def test_oldest_turns_are_forgotten() -> None:
    engine = ScriptedEngine(
        said("1"), said("2"), said("3"), [TOO_LONG], [TOO_LONG], said("4"), said("5")
    )
    conversation = talk(engine, "a", "b", "c", "d")
    assert conversation.forgotten == 4
    assert asked(engine) == ["s:Be brief.", "u:c", "a:3", "u:d"]
    list(conversation.say("e"))
    assert asked(engine) == ["s:Be brief.", "u:c", "a:3", "u:d", "a:4", "u:e"]
    assert conversation.forgotten == 4


def test_too_long_by_itself_costs_nothing() -> None:
    engine = ScriptedEngine(said("1"), said("2"), [TOO_LONG], [TOO_LONG], [TOO_LONG], said("3"))
    conversation = talk(engine, "a", "b")
    assert list(conversation.say("far too long")) == [TOO_LONG]
    assert conversation.forgotten == 0
    list(conversation.say("c"))
    assert asked(engine) == ["s:Be brief.", "u:a", "a:1", "u:b", "a:2", "u:c"]


@pytest.mark.parametrize("kind", ["prompt", "engine", "closed", "too-long"])
def test_failed_prompt_is_not_kept(kind: str) -> None:
    engine = ScriptedEngine([Failed(kind, "no")], said("1"))
    conversation = talk(engine, "bad")
    assert conversation.forgotten == 0
    list(conversation.say("good"))
    assert asked(engine) == ["s:Be brief.", "u:good"]


def test_answer_that_fails_in_the_middle_is_kept() -> None:
    engine = ScriptedEngine([PromptRead(1, 0), Text("par"), Failed("engine", "no")], said("1"))
    talk(engine, "a", "b")
    assert asked(engine) == ["s:Be brief.", "u:a", "a:par", "u:b"]


def test_cut_answer_is_kept() -> None:
    engine = ScriptedEngine(said("par", reason="length"), said("1"))
    talk(engine, "a", "b")
    assert asked(engine)[2] == "a:par"


def leave_after(events: Generator[Event, None, None], count: int) -> None:
    with closing(events):
        for _ in range(count):
            next(events)


def test_leaving_keeps_what_was_said_and_cancels() -> None:
    engine = ScriptedEngine(said("par", "t")[:-1], said("1"))
    conversation = talk(engine)
    leave_after(conversation.say("a"), 2)
    assert eventually(engine.tickets[0].cancelled.is_set)
    list(conversation.say("b"))
    assert asked(engine) == ["s:Be brief.", "u:a", "a:par", "u:b"]


def test_leaving_before_the_answer_forgets_the_prompt() -> None:
    engine = ScriptedEngine([PromptRead(1, 0)], said("1"))
    conversation = talk(engine)
    leave_after(conversation.say("a"), 1)
    list(conversation.say("b"))
    assert asked(engine) == ["s:Be brief.", "u:b"]
