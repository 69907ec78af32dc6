from __future__ import annotations

from collections.abc import Generator
from contextlib import closing

import pytest
from engine_fixtures import FACTS, NO_USAGE, ScriptedEngine, eventually

from runtime_stub.chat.conversation import Conversation
from runtime_stub.chat.transcript import Exchange, Transcript
from runtime_stub.engine.messages import (
    Event,
    Failed,
    Finished,
    PromptRead,
    Reasoning,
    Request,
    Sampling,
    Text,
    TokenizeRequest,
    Usage,
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
    assert conversation.forgotten == 2
    assert asked(engine) == ["s:Be brief.", "u:c", "a:3", "u:d"]
    list(conversation.say("e"))
    assert asked(engine) == ["s:Be brief.", "u:c", "a:3", "u:d", "a:4", "u:e"]
    assert conversation.forgotten == 2
    assert len(conversation.exchanges) == 5  # all of them are still there to be saved


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


def test_stopping_ends_at_once_and_keeps_what_came() -> None:
    """Even where the engine takes its time to notice."""
    engine = ScriptedEngine([PromptRead(1, 0), Text("par"), 0.1, Text("never")], said("1"))
    conversation = talk(engine)
    events: list[Event] = []
    for event in conversation.say("a"):
        events.append(event)
        if event == Text("par"):
            conversation.stop()
    assert events[-1] == Finished("cancelled", NO_USAGE)
    assert Text("never") not in events
    assert conversation.exchanges == (Exchange("a", "par"),)
    list(conversation.say("b"))
    assert asked(engine) == ["s:Be brief.", "u:a", "a:par", "u:b"]


def test_stopping_before_the_answer_keeps_only_the_question() -> None:
    engine = ScriptedEngine([PromptRead(1, 0)])
    conversation = talk(engine)
    for event in conversation.say("a"):
        if isinstance(event, PromptRead):
            conversation.stop()
    assert conversation.exchanges == ()
    assert conversation.question == "a"


def test_stop_while_nothing_is_answered_stops_nothing_later() -> None:
    conversation = talk(ScriptedEngine(said("a")))
    conversation.stop()
    assert list(conversation.say("x")) == said("a")


def test_undo_goes_back_step_by_step() -> None:
    conversation = talk(ScriptedEngine(said("a"), said("b")), "one", "two")
    conversation.instruct("Be long.")
    conversation.clear()
    assert not conversation.exchanges
    conversation.take_back()
    assert [exchange.answer for exchange in conversation.exchanges] == ["a", "b"]
    assert conversation.system == "Be long."
    conversation.take_back()
    assert conversation.system == "Be brief."
    conversation.take_back()
    assert [exchange.answer for exchange in conversation.exchanges] == ["a"]
    assert conversation.question == "one"
    conversation.take_back()
    assert not conversation.exchanges
    with pytest.raises(IndexError):
        conversation.take_back()


def test_answering_again_takes_the_last_place() -> None:
    engine = ScriptedEngine(said("a"), said("b"), said("c"), [Failed("engine", "no")])
    conversation = talk(engine, "one", "two")
    list(conversation.say("too", again=True))
    assert asked(engine) == ["s:Be brief.", "u:one", "a:a", "u:too"]
    assert conversation.exchanges == (Exchange("one", "a"), Exchange("too", "c"))
    conversation.take_back()
    assert conversation.exchanges[-1] == Exchange("two", "b")
    list(conversation.say("fails", again=True))
    assert conversation.exchanges[-1] == Exchange("two", "b")


def test_loaded_conversation_is_gone_on_with() -> None:
    engine = ScriptedEngine(said("old"), said("c"))
    conversation = talk(engine, "before")
    conversation.load(Transcript("Sys.", (Exchange("q1", "a1"), Exchange("q2", "a2"))))
    list(conversation.say("q3"))
    assert asked(engine) == ["s:Sys.", "u:q1", "a:a1", "u:q2", "a:a2", "u:q3"]
    for expected in (["q1", "q2"], ["q1"], [], ["before"]):
        conversation.take_back()
        assert [e.question for e in conversation.exchanges] == expected
    assert conversation.system == "Be brief."


def test_long_loaded_conversation_is_taken_back_too() -> None:
    conversation = talk(ScriptedEngine())
    exchanges = tuple(Exchange(str(n), str(n)) for n in range(1000))
    conversation.load(Transcript(None, exchanges))
    for _ in range(101):
        conversation.take_back()
    assert conversation.exchanges == ()
    assert conversation.system == "Be brief."


def test_room_for_the_answer_is_made_before_it_is_needed() -> None:
    """100 tokens of context, a quarter of them for the answer: what is asked may have 75."""

    def count(request: TokenizeRequest) -> int:
        return sum(len(message["content"]) for message in request.messages)

    engine = ScriptedEngine(*[said("a" * 10) for _ in range(5)], facts=FACTS, count=count)
    conversation = Conversation(engine, "Be brief.", Request())
    for number in range(5):
        list(conversation.say(str(number) * 10))
        assert count(TokenizeRequest(messages=engine.requests[-1].messages)) <= 75
        assert asked(engine)[0] == "s:Be brief."
        assert asked(engine)[-1] == f"u:{str(number) * 10}"
    assert conversation.forgotten == 2
    assert len(conversation.exchanges) == 5


def test_statistics_follow_the_answers() -> None:
    usage = Usage(10, 2, 5, 1.0, 0.5)
    engine = ScriptedEngine(
        [PromptRead(1, 0), 0.05, Reasoning("hm"), Text("a"), Finished("stop", usage)],
        [Failed("prompt", "no")],
    )
    conversation = talk(engine, "one", "two")
    statistics = conversation.statistics
    assert (statistics.answers, statistics.last) == (1, usage)
    assert statistics.first_token_seconds is not None
    assert statistics.first_token_seconds > 0.04
