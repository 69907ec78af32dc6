from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine_fixtures import (
    GREEDY,
    ask,
    eventually,
    sample_engine,
    sample_model,
    sample_source,
    text_of,
)

from runtime_stub.engine import context, model
from runtime_stub.engine import engine as module
from runtime_stub.engine.engine import Engine
from runtime_stub.engine.messages import (
    FIT_REQUEST,
    Begun,
    EngineSettings,
    Event,
    Failed,
    Finished,
    ModelSource,
    PromptRead,
    Request,
    Text,
)
from runtime_stub.engine.scheduler import Scheduler
from runtime_stub.errors import EngineError

__all__ = ["sample_engine", "sample_model", "sample_source"]

FRANCE = "What is the name of the capital of France?"
STORY = "Tell me a very long story about a dog."


def finished(events: list[Event]) -> Finished:
    assert isinstance(events[-1], Finished), events
    return events[-1]


def failed(events: list[Event]) -> Failed:
    assert isinstance(events[-1], Failed), events
    return events[-1]


def answer(engine: Engine, request: Request) -> str:
    events = list(engine.answer(request))
    finished(events)
    return text_of(events)


# With the sample model.


def test_answer(sample_engine: Engine) -> None:
    events = list(sample_engine.answer(ask(FRANCE)))
    assert isinstance(events[0], Begun)
    assert isinstance(events[1], PromptRead)
    assert "Paris" in text_of(events)
    assert finished(events).reason == "stop"
    assert finished(events).usage.prompt_tokens == 30


def test_facts(sample_engine: Engine) -> None:
    answer(sample_engine, ask(FRANCE, max_tokens=1))
    facts = sample_engine.facts
    assert facts is not None
    assert (facts.context, facts.context_reason) == (2048, "as asked")
    assert (facts.threads, facts.template) == (1, "model")
    assert facts.cpu_variant
    assert sample_engine.status.state == "ready"


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
    alone = [answer(sample_engine, request) for request in requests]
    together = [""] * len(requests)

    def work(index: int) -> None:
        together[index] = answer(sample_engine, requests[index])

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
    said = answer(sample_engine, first)
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


def test_too_long(sample_engine: Engine) -> None:
    event = failed(list(sample_engine.answer(Request(text="word " * 3000))))
    assert event.kind == "too-long"
    assert "2,048" in event.message
    assert "3,00" in event.message


def test_refused_by_the_template(sample_engine: Engine) -> None:
    bad = Request(messages=({"role": "user", "content": {"no": "text"}},))
    event = failed(list(sample_engine.answer(bad)))
    assert event.kind == "prompt"
    assert "Paris" in answer(sample_engine, ask(FRANCE))


def test_cancel_stops_soon(sample_engine: Engine) -> None:
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    ticket = sample_engine.submit(ask(STORY, max_tokens=1500), events.put)
    while not isinstance(events.get(timeout=10), Text):
        pass
    ticket.cancel()
    start = time.monotonic()
    while not isinstance(event := events.get(timeout=10), (Finished, Failed)):
        pass
    assert finished([event]).reason == "cancelled"
    assert time.monotonic() - start < 1
    ticket.cancel()


def test_leaving_the_loop_cancels(sample_engine: Engine) -> None:
    for event in sample_engine.answer(ask(STORY, max_tokens=1500)):
        if isinstance(event, Text):
            break
    start = time.monotonic()
    # All slots are free again, or this would wait for one.
    for _ in range(4):
        answer(sample_engine, ask(FRANCE, max_tokens=1))
    assert time.monotonic() - start < 3


def test_stop_string_and_limit(sample_engine: Engine) -> None:
    events = list(
        sample_engine.answer(
            Request(messages=ask(FRANCE).messages, sampling=GREEDY, stop=(" is Par",))
        )
    )
    assert text_of(events) == "The capital of France"
    assert finished(events).reason == "stop"
    assert finished(list(sample_engine.answer(ask(STORY, max_tokens=2)))).reason == "length"


def test_context_for_the_request(sample_source: ModelSource) -> None:
    engine = Engine(sample_source, EngineSettings(context=FIT_REQUEST, threads=1))
    try:
        engine.wait_ready()
        assert engine.facts is not None
        assert engine.facts.context == 0
        assert "Paris" in answer(engine, ask(FRANCE, max_tokens=20))
        assert engine.facts.context == 256
        answer(engine, ask(FRANCE, max_tokens=1000 - 30))
        assert engine.facts.context == 1024
        # A smaller one goes on in the context that is there.
        answer(engine, ask(FRANCE, max_tokens=5))
        assert engine.facts.context == 1024
    finally:
        engine.close()


def test_context_that_cannot_be_made(
    sample_source: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one before is gone then, and must not be used again."""
    engine = Engine(sample_source, EngineSettings(context=FIT_REQUEST, threads=1))
    try:
        answer(engine, ask(FRANCE, max_tokens=5))

        def refuse(*_arguments: Any) -> None:
            raise EngineError("no memory")

        with monkeypatch.context() as patch:
            patch.setattr(module, "Context", refuse)
            event = failed(list(engine.answer(ask(FRANCE, max_tokens=1000))))
            assert (event.kind, event.message) == ("engine", "no memory")
            failed(list(engine.answer(ask(FRANCE, max_tokens=5))))
        assert "Paris" in answer(engine, ask(FRANCE, max_tokens=20))
    finally:
        engine.close()


def test_broken_template_fails_requests_only(sample_source: ModelSource) -> None:
    settings = EngineSettings(context=256, threads=1, template="{% broken")
    engine = Engine(sample_source, settings)
    for _ in range(2):
        assert failed(list(engine.answer(ask(FRANCE)))).kind == "prompt"
    raw = Request(text="x", max_tokens=1)
    assert failed(list(engine.answer(raw))).kind == "prompt"
    engine.close()


def test_context_larger_than_memory(sample_source: ModelSource) -> None:
    engine = Engine(sample_source, EngineSettings(context=2**31 - 1))
    with pytest.raises(EngineError, match=r"context of 2,147,483,647 tokens needs"):
        engine.wait_ready(20)
    event = failed(list(engine.answer(ask(FRANCE))))
    assert event.kind == "engine"
    assert "--context" in event.message
    engine.close()


def test_close_ends_what_runs(sample_source: ModelSource) -> None:
    engine = Engine(sample_source, EngineSettings(context=512, threads=1))
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    for _ in range(3):
        engine.submit(ask(STORY, max_tokens=400), events.put)
    while not isinstance(events.get(timeout=10), Text):
        pass
    engine.close()
    ends = [event for event in drained(events) if not isinstance(event, Text)]
    assert ends == [Failed("closed", "the engine is shutting down")] * 3
    assert engine.status.state == "closed"
    assert not engine._worker.is_alive()
    assert not engine._preparer.is_alive()
    assert failed(list(engine.answer(ask(FRANCE)))).kind == "closed"
    with pytest.raises(EngineError):
        engine.wait_ready(1)
    engine.close()


def drained(events: queue.SimpleQueue[Event]) -> list[Event]:
    found: list[Event] = []
    while not events.empty():
        found.append(events.get())
    return found


def test_garbage_model(tmp_path: Path) -> None:
    path = tmp_path / "garbage"
    path.write_bytes(b"garbage" * 1000)
    with path.open("rb") as stream:
        engine = Engine(ModelSource(stream.fileno(), 0, 7000), EngineSettings())
        with pytest.raises(EngineError, match="can't be loaded"):
            engine.wait_ready(20)
        event = failed(list(engine.answer(ask(FRANCE))))
    assert event.kind == "engine"
    assert "can't be loaded" in event.message
    assert engine.status.state == "failed"
    engine.close()
    assert failed(list(engine.answer(ask(FRANCE)))).kind in ("closed", "engine")


# Threads, without native code.


class FakeModel:
    """As much of a model as the engine looks at."""

    parameters = size = trained_context = vocabulary_size = 1000
    bos = eos = ""
    adds_bos = False
    vocabulary = None

    def __init__(self) -> None:
        self.freed = 0

    def metadata(self, _key: str) -> str:
        return ""

    def can_rerank(self) -> bool:
        return False

    def control_token(self, _text: str) -> None:
        return None

    def template(self) -> str:
        return "{{ messages[0].content }}"

    def tokenize(self, text: str, **_: Any) -> list[int]:
        return [ord(char) for char in text]

    def description(self) -> str:
        return "fake"

    def state_bytes_per_token(self, _kv: str) -> int:
        return 1

    def free(self) -> None:
        self.freed += 1


class FakeContext:
    forgiving = True

    def __init__(self, _model: Any, size: context.ContextSize, *_: Any) -> None:
        self.size = size

    def free(self) -> None:
        pass


class Fakes:
    """What stands in for the native half, and what it is told to do."""

    def __init__(self) -> None:
        self.model = FakeModel()
        self.loading = threading.Event()
        self.may_load = threading.Event()
        self.may_load.set()
        self.step: Callable[[Scheduler], None] = lambda scheduler: None

    def load_model(
        self, _source: ModelSource, on_progress: Callable[[float], bool], *, repack: bool
    ) -> FakeModel:
        assert not repack
        self.loading.set()
        while not self.may_load.wait(0.005):
            if not on_progress(0.5):
                raise EngineError("the model can't be loaded: broken off")
        return self.model


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Fakes:
    fakes = Fakes()
    monkeypatch.setattr(model, "load_model", fakes.load_model)
    monkeypatch.setattr(module, "Context", FakeContext)
    monkeypatch.setattr("runtime_stub.engine.library.cpu_variant", lambda: "fake")

    def step(self: Scheduler) -> None:
        time.sleep(0.001)
        fakes.step(self)

    monkeypatch.setattr(Scheduler, "step", step)
    return fakes


def started(**settings: Any) -> Engine:
    return Engine(ModelSource(0, 0, 0), EngineSettings(context=100, **settings))


def short(text: str = "hi") -> Request:
    return Request(messages=({"role": "user", "content": text},))


def end_all(scheduler: Scheduler) -> None:
    scheduler.fail_all(Failed("engine", "scripted"))


@pytest.fixture(autouse=True)
def _no_native_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeContext, "keep", lambda *_: 0, raising=False)


def test_requests_wait_for_the_model(fakes: Fakes) -> None:
    fakes.may_load.clear()
    fakes.step = end_all
    engine = started()
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    engine.submit(short(), events.put)
    assert not engine.wait_ready(0.05)
    assert engine.status.state == "loading"
    assert engine.status.progress == 0.5
    assert engine.facts is None
    assert events.empty()
    fakes.may_load.set()
    assert failed([events.get(timeout=5)]).message == "scripted"
    assert engine.wait_ready()
    engine.close()
    assert fakes.model.freed == 1


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
    assert eventually(lambda: not engine._preparer.is_alive())


def test_loading_that_raises_something_else(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(model, "load_model", load)
    engine = started()
    with pytest.raises(EngineError, match="ZeroDivisionError"):
        engine.wait_ready(5)
    assert failed(list(engine.answer(short()))).kind == "engine"
    engine.close()


def test_mistake_in_the_scheduler_ends_all_requests(fakes: Fakes) -> None:
    def step(_scheduler: Scheduler) -> None:
        raise ZeroDivisionError

    fakes.step = step
    engine = started()
    event = failed(list(engine.answer(short())))
    assert event.kind == "engine"
    assert "ZeroDivisionError" in event.message
    assert "ZeroDivisionError" in failed(list(engine.answer(short()))).message
    assert eventually(lambda: not engine._preparer.is_alive())
    engine.close()


def test_mistake_in_the_prompt_ends_its_request(fakes: Fakes) -> None:
    fakes.step = end_all
    engine = started()
    odd = Request(messages=({"role": "user", "content": [1]},))
    assert failed(list(engine.answer(odd))).kind == "prompt"
    assert failed(list(engine.answer(short()))).message == "scripted"
    engine.close()


def test_close_while_a_prompt_is_prepared(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request is between the two queues then; it must not be lost."""
    preparing, go_on = threading.Event(), threading.Event()

    def tokenize(text: str, **_: Any) -> list[int]:
        preparing.set()
        go_on.wait(5)
        return [1]

    monkeypatch.setattr(fakes.model, "tokenize", tokenize)
    engine = started()
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    engine.submit(short(), events.put)
    assert preparing.wait(5)
    closing = threading.Thread(target=engine.close)
    closing.start()
    assert failed([events.get(timeout=5)]).kind == "closed"
    assert fakes.model.freed == 0, "the vocabulary is still being read"
    go_on.set()
    closing.join(5)
    assert fakes.model.freed == 1
    assert events.empty()


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


def test_raising_sink(fakes: Fakes) -> None:
    fakes.step = end_all
    engine = started()

    def sink(_event: Event) -> None:
        raise RuntimeError

    engine.submit(short(), sink)
    assert failed(list(engine.answer(short()))).message == "scripted"
    engine.close()
