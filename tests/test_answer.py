from __future__ import annotations

from runtime_stub.engine.answer import Answer
from runtime_stub.engine.families import GENERIC
from runtime_stub.engine.messages import Event, Text, ToolCall
from runtime_stub.engine.reading import Reading

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


def test_the_stop_string_that_ended_it() -> None:
    answer = Answer(0, Reading(), ("b", "bcd", "cd"))
    list(answer.feed(b"abcd", None))
    assert answer.over
    assert answer.stopped_by == "bcd"
