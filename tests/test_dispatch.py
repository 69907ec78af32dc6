from __future__ import annotations

from dataclasses import replace

from running_pack import wait_for
from scripted_process import (
    DONE,
    HELLO,
    SERVE,
    Answer,
    Make,
    make,
    short_pauses,
    submit,
)

from runtime_stub.engine.messages import (
    AnyRequest,
    EmbedRequest,
    Event,
    Failed,
    Finished,
    PromptRead,
    Request,
    RerankRequest,
    Text,
    TokenizeRequest,
)
from runtime_stub.engine.remote import RemoteEngine

__all__ = ["make", "short_pauses"]


def test_cancel(make: Make) -> None:
    engine, _ = make(SERVE)
    engine.wait_ready(5)
    answer = Answer()
    ticket = engine.submit(Request(text="wait"), answer)
    ticket.cancel()
    assert isinstance(answer.last, Finished)
    assert answer.last.reason == "cancelled"
    ticket.cancel()
    assert not engine._dispatch._requests


def test_cancel_while_it_waits(make: Make) -> None:
    """Nobody needs to wait for the engine to be told that."""
    engine, _ = make("time.sleep(0.2)\n" + SERVE)
    answer = Answer()
    ticket = engine.submit(HELLO, answer)
    ticket.cancel()
    assert [type(event) for event in answer.events] == [Finished]
    ticket.cancel()
    assert submit(engine, "a").last == DONE
    assert len(answer.events) == 1


def test_leaving_an_answer_cancels_it(make: Make) -> None:
    engine, _ = make(
        "ready(); frame = wire.receive(); wire.send(PromptRead(1, 0), frame.request)\n"
        "assert wire.receive().kind is Cancel\nwire.send(done, frame.request)\n" + SERVE
    )
    events = engine.answer(HELLO)
    assert next(events) == PromptRead(1, 0)
    events.close()  # type: ignore[attr-defined]
    wait_for(lambda: not engine._dispatch._requests, "the last event", 5)


def test_queue_is_bounded(make: Make) -> None:
    engine, _ = make(SERVE, parallel=2, queue=3)
    answers = [submit(engine, "wait") for _ in range(6)]
    assert answers[5].events == [Failed("busy", "3 requests are waiting already", "Ask later")]
    assert not any(answer.events for answer in answers[:5])


SILENT = "ready()\nwhile wire.receive().kind is not Close: pass\nleave(0)"


def asked(engine: RemoteEngine, *requests: AnyRequest) -> list[Answer]:
    answers = [Answer() for _ in requests]
    for request, answer in zip(requests, answers, strict=True):
        engine.submit(request, answer)
    return answers


def test_what_takes_no_slot_keeps_nobody_from_one(make: Make) -> None:
    """It has a bound of its own."""
    engine, _ = make(SILENT, parallel=1, queue=1)
    embed, rank, count = EmbedRequest(("a",)), RerankRequest("a", ("b",)), TokenizeRequest("a")
    answers = asked(engine, embed, rank, count, HELLO, HELLO, HELLO)
    busy = [Failed("busy", "1 requests are waiting already", "Ask later")]
    assert [answer.events for answer in answers] == [[], [], busy, [], [], busy]


def test_each_choice_takes_a_slot(make: Make) -> None:
    engine, _ = make(SILENT, parallel=3, queue=1)
    two = replace(HELLO, choices=2)
    answers = asked(engine, two, two, HELLO)
    busy = [Failed("busy", "1 requests are waiting already", "Ask later")]
    assert [answer.events for answer in answers] == [[], [], busy]


def test_it_waits_for_so_long(make: Make) -> None:
    engine, _ = make("wire.receive()", timeout=0.1)
    last = submit(engine, "a").last
    assert isinstance(last, Failed)
    assert last.kind == "timeout"


def test_sink_that_raises(make: Make) -> None:
    """It costs its own request only, which is cancelled."""
    engine, scripted = make(
        "ready(); frame = wire.receive(); wire.send(Text('a'), frame.request)\n"
        "assert wire.receive().kind is Cancel\nwire.send(done, frame.request)\n" + SERVE
    )
    calls: list[Event] = []

    def sink(event: Event) -> None:
        calls.append(event)
        raise RuntimeError

    engine.submit(HELLO, sink)
    wait_for(lambda: calls == [Text("a"), DONE], "the last event", 5)
    assert submit(engine, "a").last == DONE
    assert len(scripted.processes) == 1


def test_sink_may_use_the_engine(make: Make) -> None:
    engine, _ = make(SERVE)
    second = Answer()
    first = Answer()

    def sink(event: Event) -> None:
        first(event)
        if isinstance(event, Text):
            engine.submit(HELLO, second)
            ticket.cancel()

    ticket = engine.submit(HELLO, sink)
    assert first.last == DONE
    assert second.last == DONE


def test_events_of_unknown_requests(make: Make) -> None:
    engine, scripted = make("wire.send(Text('a'), 5); wire.send(done, 0)\n" + SERVE)
    assert submit(engine, "a").last == DONE
    assert len(scripted.processes) == 1
