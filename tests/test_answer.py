from __future__ import annotations

import json

import pytest

from runtime_stub.engine.answer import Answer
from runtime_stub.engine.endings import Endings
from runtime_stub.engine.families import GENERIC, QWEN_CODER
from runtime_stub.engine.job import Job
from runtime_stub.engine.messages import (
    Event,
    Finished,
    Reasoning,
    Request,
    Text,
    TokenLogprob,
    ToolCall,
)
from runtime_stub.engine.reading import Reading
from runtime_stub.engine.slots import Slot

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>\n'


def fed(pieces: list[str], *, single: bool) -> tuple[list[Event], list[bool]]:
    reading = Reading(GENERIC, plain=False, tools=True, single_call=single)
    answer = Answer(0, reading, ())
    events: list[Event] = []
    over = []
    for piece in pieces:
        events += answer.feed(piece.encode(), None)
        over.append(answer.over)
    return [*events, *answer.finish()], over


def calls(events: list[Event]) -> set[int]:
    return {event.index for event in events if isinstance(event, ToolCall)}


def test_several_calls() -> None:
    events, over = fed([CALL, CALL, "And?"], single=False)
    assert calls(events) == {0, 1}
    assert over == [False] * 3


def test_a_second_call_ends_an_answer_of_one() -> None:
    events, over = fed([CALL, CALL, "And?"], single=True)
    assert calls(events) == {0}
    assert over == [False, True, True]
    assert not any(isinstance(event, Text) for event in events)


def test_one_call_does_not_end_the_text() -> None:
    events, over = fed(["So: ", CALL, "Then."], single=True)
    assert calls(events) == {0}
    assert not any(over)
    assert "".join(event.text for event in events if isinstance(event, Text)) == "So:Then."


NO_CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": Oslo}}\n</tool_call>'


@pytest.mark.parametrize("whole", [True, False])
def test_what_turns_out_to_be_no_call(whole: bool) -> None:
    answer = Answer(0, Reading(GENERIC, plain=False, tools=True, whole_calls=whole), ())
    events = [*answer.feed(NO_CALL.encode(), None), *answer.finish()]
    text = "".join(event.text for event in events if isinstance(event, Text))
    assert calls(events) == (set() if whole else {0})
    assert (text == NO_CALL) == whole


def test_half_a_call_is_none_where_it_is_told_whole() -> None:
    answer = Answer(0, Reading(GENERIC, plain=False, tools=True, whole_calls=True), ())
    events = [*answer.feed(("So: " + CALL[:40]).encode(), None), *answer.finish(cut=True)]
    assert events == [Text("So:")]
    assert not answer.called


def test_the_stop_string_that_ended_it() -> None:
    answer = Answer(0, Reading(), ("b", "bcd", "cd"))
    list(answer.feed(b"abcd", None))
    assert answer.over
    assert answer.stopped_by == "bcd"


@pytest.mark.parametrize(
    "tokens",
    [
        ["Hel", "lo", " there"],
        ["<think>", "\nI ", "greet", ".", "\n</think>", "\n\n", "Hel", "lo", " there"],
        ["<think>", "\n\n", "</think>", "\n\n", "Hel", "lo", " there"],
        ["Hel", "lo", CALL, " ", "there"],
        [CALL, "Hel", "lo", " there"],
    ],
    ids=str,
)
def test_probabilities_are_those_of_the_text(tokens: list[str]) -> None:
    """As OpenAI's clients expect it: what they belong to, joined, is the answer's text."""
    answer = Answer(0, Reading(GENERIC, plain=False, tools=True), ())
    events: list[Event] = []
    for token in tokens:
        events += answer.feed(token.encode(), TokenLogprob(token, token.encode(), -0.5))
    events += answer.finish()
    texts = [event for event in events if isinstance(event, Text)]
    told = b"".join(one.raw for text in texts for one in text.logprobs).decode()
    said = "".join(text.text for text in texts)
    assert (said.replace(" ", ""), told.replace(" ", "")) == ("Hellothere", "Hellothere")


@pytest.mark.parametrize(
    ("written", "reason", "shown", "told"),
    [
        ('Hm. <tool_call>\n{"name', "length", "Hm.", "length"),
        ('Hm. <tool_call>\n{"name', "cancelled", "Hm.", "cancelled"),
        ('Hm. <tool_call>\n{"name', "stop", 'Hm. <tool_call>\n{"name', "stop"),
        ('Hm. <tool_call>\n{"name": "END', "stop", "Hm.", "stop"),
        ("Hm. <END", "stop", "Hm.", "stop"),
        ("Hm. <b> END", "stop", "Hm. <b> ", "stop"),
        (f"{CALL}<tool_", "length", "", "length"),
        (f"{CALL}<tool_", "stop", "<tool_", "tool_calls"),
        (f'{CALL}<tool_call>{{"name": "clock", "arguments": {{"a"', "stop", "", "tool_calls"),
    ],
)
def test_half_a_call_is_shown_of_answers_alone_that_ended_by_themselves(
    written: str, reason: str, shown: str, told: str
) -> None:
    """A stop string, or a call too many, has ended those that would have gone on."""
    reading = Reading(GENERIC, plain=False, tools=True, single_call=True)
    events: list[Event] = []
    job = Job(Request(), events.append)
    slot = Slot(0, job=job, answer=Answer(0, reading, ("END",)))
    assert slot.answer
    events += slot.answer.feed(written.encode(), None)
    Endings([slot]).end(slot, reason)
    assert "".join(event.text for event in events if isinstance(event, Text)) == shown
    assert calls(events) <= {0}
    assert [event.reason for event in events if isinstance(event, Finished)] == [told]


def test_half_a_call_is_not_shown_as_reasoning() -> None:
    """Where calls end reasoning, and where its own end was begun."""
    for text in ("I see. <tool_call>\n<function=", "I see.</thi"):
        answer = Answer(0, Reading(QWEN_CODER, plain=False, tools=True, reasoning_open=True), ())
        events = [*answer.feed(text.encode(), None), *answer.finish(cut=True)]
        assert events == [Reasoning("I see.")]


def test_arguments_have_the_types_that_the_tool_asks_for() -> None:
    """In syntaxes that write texts and numbers alike."""
    call = (
        "<tool_call>\n<function=save>\n<parameter=zip>\n01234\n</parameter>\n"
        "<parameter=count>\n5\n</parameter>\n</function>\n</tool_call>"
    )
    kinds = {"zip": {"type": "string"}, "count": {"type": "integer"}}
    reading = Reading(QWEN_CODER, plain=False, tools=True, schemas={"save": {"properties": kinds}})
    answer = Answer(0, reading, ())
    events = [*answer.feed(call.encode(), None), *answer.finish()]
    arguments = "".join(event.arguments for event in events if isinstance(event, ToolCall))
    assert json.loads(arguments) == {"zip": "01234", "count": 5}
