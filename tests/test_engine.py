from __future__ import annotations

import queue
import threading
import time

import pytest
from engine_fixtures import (
    GREEDY,
    answered,
    ask,
    eventually,
    failed,
    finished,
    sample_engine,
    sample_model,
    sample_source,
    text_of,
)
from fake_model import Fakes, end_all, fakes, short, started

from runtime_stub.engine.engine import Engine
from runtime_stub.engine.interface import AnyTicket, Sink
from runtime_stub.engine.messages import (
    LAST_EVENTS,
    AnyRequest,
    Begun,
    EmbedRequest,
    EngineSettings,
    Event,
    Failed,
    Finished,
    ModelSource,
    PromptRead,
    Request,
    Sources,
    Text,
)
from runtime_stub.errors import EngineError

__all__ = ["fakes", "sample_engine", "sample_model", "sample_source"]

FRANCE = "What is the name of the capital of France?"
STORY = "Tell me a very long story about a dog."


def test_answer(sample_engine: Engine) -> None:
    events = list(sample_engine.answer(ask(FRANCE)))
    assert isinstance(events[0], Begun)
    assert isinstance(events[1], PromptRead)
    assert "Paris" in text_of(events)
    assert finished(events).reason == "stop"
    assert finished(events).usage.prompt_tokens == 30


def test_several_at_once_answer_as_if_alone(sample_engine: Engine) -> None:
    # Texts that the model is sure about: the last bits of the logits depend on what else is in
    # the batch and where in the cache things lie, and could tip a close decision.
    texts = [
        "1, 2, 3, 4, 5, 6,",
        "a b c d e f g",
        "10, 20, 30, 40, 50, 60,",
        "100, 200, 300, 400, 500,",
    ]
    requests = [Request(text=text, sampling=GREEDY, max_tokens=5) for text in texts]
    alone = [answered(sample_engine, request) for request in requests]
    together = [""] * len(requests)

    def work(index: int) -> None:
        together[index] = answered(sample_engine, requests[index])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone
    assert together[:2] == [" 7, 8", " h i j k l"]
    assert len(set(together)) == len(texts)


def test_second_turn_reads_only_what_is_new(sample_engine: Engine) -> None:
    first = ask("What is the capital of Italy?")
    said = answered(sample_engine, first)
    more = ({"role": "assistant", "content": said}, {"role": "user", "content": "And Spain?"})
    second = Request(messages=(*first.messages, *more), sampling=GREEDY, max_tokens=4)
    usage = finished(list(sample_engine.answer(second))).usage
    assert usage.cached_tokens > 30
    assert usage.prompt_tokens - usage.cached_tokens < 20


def test_conversations_go_on_in_turn(sample_engine: Engine) -> None:
    """Each lies aside while another one is answered, and goes on where it was."""
    subjects = ("rivers", "bread", "clocks")
    chats = [[{"role": "user", "content": f"{subject}, " * 40}] for subject in subjects]
    read = [0] * len(chats)
    for turn in range(2):
        for number, chat in enumerate(chats):
            request = Request(messages=tuple(chat), sampling=GREEDY, max_tokens=8)
            events = list(sample_engine.answer(request))
            usage = finished(events).usage
            assert usage.cached_tokens >= read[number]
            assert turn or usage.cached_tokens < 60
            read[number] = usage.prompt_tokens
            chat.append({"role": "assistant", "content": text_of(events)})
            chat.append({"role": "user", "content": "And what else?"})


def test_cancel_stops_soon(sample_engine: Engine) -> None:
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    ticket = sample_engine.submit(ask(STORY, max_tokens=1500), events.put)
    while not isinstance(events.get(timeout=10), Text):
        pass
    ticket.cancel()
    # Counted in tokens: how long one takes depends on what else the machine does.
    more = -events.qsize()
    while not isinstance(event := events.get(timeout=10), (Finished, Failed)):
        more += 1
    assert finished([event]).reason == "cancelled"
    assert more < 20
    ticket.cancel()


def test_leaving_the_loop_cancels(sample_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    submit = sample_engine.submit
    heard: list[Event] = []

    def overheard(request: AnyRequest, sink: Sink) -> AnyTicket:
        def both(event: Event) -> None:
            heard.append(event)
            sink(event)

        return submit(request, both)

    monkeypatch.setattr(sample_engine, "submit", overheard)
    for event in sample_engine.answer(ask(STORY, max_tokens=1500)):
        if isinstance(event, Text):
            break
    assert eventually(lambda: isinstance(heard[-1], LAST_EVENTS))
    # Had it gone on, it would have ended for its length.
    assert finished(heard).reason == "cancelled"
    assert not sample_engine._unfinished


def test_stop_string_and_limit(sample_engine: Engine) -> None:
    events = list(
        sample_engine.answer(
            Request(messages=ask(FRANCE).messages, sampling=GREEDY, stop=(" is Par",))
        )
    )
    assert text_of(events) == "The capital of France"
    assert finished(events).reason == "stop"
    assert finished(list(sample_engine.answer(ask(STORY, max_tokens=2)))).reason == "length"


def test_close_ends_what_runs(sample_source: ModelSource) -> None:
    engine = Engine(Sources(sample_source), EngineSettings(context=512, threads=1))
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    for _ in range(3):
        engine.submit(ask(STORY, max_tokens=400), events.put)
    while not isinstance(events.get(timeout=10), Text):
        pass
    engine.close()
    ends = [event for event in drained(events) if not isinstance(event, Text)]
    assert ends == [Failed("closed", "the engine is shutting down")] * 3
    assert engine.status.state == "closed"
    assert not engine._thread.is_alive()
    assert not engine._intake.is_alive()
    assert failed(list(engine.answer(ask(FRANCE)))).kind == "closed"
    with pytest.raises(EngineError):
        engine.wait_ready(1)
    engine.close()


def drained(events: queue.SimpleQueue[Event]) -> list[Event]:
    found: list[Event] = []
    while not events.empty():
        found.append(events.get())
    return found


def test_close_while_loading(fakes: Fakes) -> None:
    fakes.may_load.clear()
    engine = started()
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    engine.submit(short(), events.put)
    assert fakes.loading.wait(5)
    start = time.monotonic()
    engine.close()
    assert time.monotonic() - start < 2
    assert events.get(timeout=5) == Failed("closed", "the engine is shutting down")
    assert engine.status.state == "closed"
    assert eventually(lambda: not engine._intake.is_alive())


def test_close_from_a_sink(fakes: Fakes) -> None:
    fakes.step = end_all
    engine = started()
    engine.submit(short(), lambda _event: engine.close(timeout=1))
    assert eventually(lambda: engine.status.state == "closed")


def test_every_request_ends_however_close_falls(fakes: Fakes) -> None:
    """Requests from several threads while another closes: each gets exactly one last event."""
    fakes.step = end_all
    for _ in range(15):
        engine = started()
        ends: queue.SimpleQueue[Event] = queue.SimpleQueue()

        def work(engine: Engine = engine, ends: queue.SimpleQueue[Event] = ends) -> None:
            for _ in range(20):
                engine.submit(short(), ends.put)

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        engine.close()
        for thread in threads:
            thread.join()
        assert eventually(lambda ends=ends: ends.qsize() == 60), ends.qsize()  # type: ignore[misc]
        assert not engine._unfinished
        assert {type(event) for event in drained(ends)} == {Failed}


def test_what_takes_no_slot_is_bounded_by_itself(fakes: Fakes) -> None:
    fakes.may_load.clear()
    engine = started(parallel=1, queue=1)
    asked: list[AnyRequest] = [*[EmbedRequest(("a",))] * 3, *[short()] * 3]
    said: list[list[Event]] = [[] for _ in asked]
    for request, events in zip(asked, said, strict=True):
        engine.submit(request, events.append)
    busy = [Failed("busy", "1 requests are waiting already", "Ask later")]
    assert said == [[], [], busy] * 2
    engine.close()


def test_raising_sink(fakes: Fakes) -> None:
    fakes.step = end_all
    engine = started()

    def sink(_event: Event) -> None:
        raise RuntimeError

    engine.submit(short(), sink)
    assert failed(list(engine.answer(short()))).message == "scripted"
    engine.close()
