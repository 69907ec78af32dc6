from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from runtime_stub.engine import process
from runtime_stub.engine.interface import AnyTicket, Sink, answer
from runtime_stub.engine.messages import (
    AnyRequest,
    Begun,
    EngineSettings,
    Event,
    Failed,
    Finished,
    ModelFacts,
    PromptRead,
    Request,
    Status,
    Text,
    Tokens,
    Usage,
)
from runtime_stub.engine.process import Load, run_engine
from runtime_stub.engine.wire import Cancel, Close, Connection, Ping, Start, encode
from runtime_stub.errors import EngineError, FormatError, PackChangedError

USAGE = Usage(1, 0, 1, 0.0, 0.0)
FACTS = ModelFacts(
    description="tiny",
    parameters=1,
    size=1,
    trained_context=1,
    context=1,
    context_reason="",
    threads=1,
    cpu_variant="",
    embeddings=True,
    rerank=False,
    vocabulary=1,
    template="",
)
START = Start("model", EngineSettings(parallel=3))
HELLO = Request(text="Hello")


class Ticket:
    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def cancel(self) -> None:
        self._sink(Finished("cancelled", USAGE))


class HandEngine:
    """An engine that is ready when it is told to be, and leaves its sinks to the test."""

    def __init__(self) -> None:
        self.status = Status("loading")
        self.facts: ModelFacts | None = None
        self.settled = threading.Event()
        self.sinks: list[Sink] = []
        self.requests: list[AnyRequest] = []
        self.closed = threading.Event()

    def settle(self, state: str = "ready", message: str = "") -> None:
        self.facts = FACTS
        self.status = Status(state, 1.0, message)
        self.settled.set()

    def wait_ready(self, timeout: float | None = None) -> bool:
        if not self.settled.wait(timeout):
            return False
        if self.status.state != "ready":
            raise EngineError(self.status.message)
        return True

    def submit(self, request: AnyRequest, sink: Sink) -> AnyTicket:
        self.requests.append(request)
        self.sinks.append(sink)
        return Ticket(sink)

    def answer(self, request: AnyRequest) -> Iterator[Event]:
        return answer(self, request)

    def close(self, timeout: float = 10.0) -> None:
        self.closed.set()


class Harness:
    """A `run_engine` in a thread, and the parent's end of its connection."""

    def __init__(self, load: Load, *, flushes: bool = False) -> None:
        ours, theirs = socket.socketpair()
        self.parent = Connection(ours)
        self.child = Connection(theirs)
        self.codes: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, args=(load, flushes))
        self._thread.start()

    def _run(self, load: Load, flushes: bool) -> None:
        self.codes.put(run_engine(self.child, load, flushes=flushes))
        self.child.close()

    def get(self) -> Any:
        return self.parent.receive(5).message()

    @property
    def code(self) -> int:
        return self.codes.get(timeout=5)

    def end(self) -> None:
        self.parent.close()
        self._thread.join(5)
        assert not self._thread.is_alive()


@pytest.fixture(autouse=True)
def short_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_LOOK", 0.01)


@pytest.fixture
def engine() -> HandEngine:
    return HandEngine()


@pytest.fixture
def start() -> Iterator[Callable[[Load], Harness]]:
    started: list[Harness] = []

    def make(load: Load) -> Harness:
        started.append(Harness(load))
        return started[-1]

    yield make
    for harness in started:
        harness.end()


@pytest.fixture
def loading(start: Callable[[Load], Harness], engine: HandEngine) -> Harness:
    harness = start(lambda *_: engine)
    harness.parent.send(START)
    assert harness.get() == Status("loading", 0.0)
    return harness


def settled(harness: Harness) -> Any:
    """The first message after the engine has settled. A look at the progress that falls between
    its last status and the end of the wait for that tells of it first."""
    message = harness.get()
    return harness.get() if message == Status("loading", 1.0) else message


@pytest.fixture
def ready(loading: Harness, engine: HandEngine) -> Harness:
    engine.settle()
    assert settled(loading) == FACTS
    assert loading.get() == Status("ready", 1.0)
    return loading


def submit(harness: Harness, engine: HandEngine, request: AnyRequest, identity: int) -> Sink:
    count = len(engine.sinks)
    harness.parent.send(request, identity)
    until = time.monotonic() + 5
    while len(engine.sinks) == count:
        assert time.monotonic() < until
        time.sleep(0.001)
    return engine.sinks[-1]


def test_it_loads_what_it_is_told_to(start: Callable[[Load], Harness], engine: HandEngine) -> None:
    asked: list[Start] = []

    def load(what: Start, on_progress: Callable[[float], None]) -> HandEngine:
        asked.append(what)
        on_progress(0.25)
        return engine

    harness = start(load)
    harness.parent.send(START)
    assert harness.get() == Status("loading", 0.25)
    assert harness.get() == Status("loading", 0.0)
    engine.status = Status("loading", 0.5)
    assert harness.get() == Status("loading", 0.5)
    assert asked == [START]


def test_requests_and_events(ready: Harness, engine: HandEngine) -> None:
    first = submit(ready, engine, HELLO, 7)
    second = submit(ready, engine, replace(HELLO, text="Bye"), 8)
    assert [request.text for request in engine.requests if isinstance(request, Request)] == [
        "Hello",
        "Bye",
    ]
    first(PromptRead(1, 0))
    second(Tokens((1, 2)))
    first(Finished("stop", USAGE))
    frames = [ready.parent.receive(5) for _ in range(3)]
    assert [(frame.request, frame.message()) for frame in frames] == [
        (7, PromptRead(1, 0)),
        (8, Tokens((1, 2))),
        (7, Finished("stop", USAGE)),
    ]


def test_facts_that_change_come_before_the_event(ready: Harness, engine: HandEngine) -> None:
    sink = submit(ready, engine, HELLO, 1)
    engine.facts = replace(FACTS, context=99)
    sink(Begun((0,)))
    sink(Text("b"))
    assert [ready.get() for _ in range(3)] == [engine.facts, Begun((0,)), Text("b")]


def test_it_answers_pings_whatever_it_does(loading: Harness, engine: HandEngine) -> None:
    loading.parent.send(Ping())
    assert loading.get() == Ping()
    engine.settle()
    assert [settled(loading), loading.get()] == [FACTS, Status("ready", 1.0)]
    loading.parent.send(Ping())
    assert loading.get() == Ping()


def test_cancel(ready: Harness, engine: HandEngine) -> None:
    submit(ready, engine, HELLO, 1)
    ready.parent.send(Cancel(), 99)
    ready.parent.send(Cancel(), 1)
    ready.parent.send(Cancel(), 1)
    frame = ready.parent.receive(5)
    assert (frame.request, frame.message()) == (1, Finished("cancelled", USAGE))


def test_request_that_can_not_be_read(ready: Harness, engine: HandEngine) -> None:
    """It costs nobody else anything."""
    frame = encode(HELLO, 3)
    frame[13] = 0xC1
    ready.parent.send_frame(frame)
    answer = ready.get()
    assert isinstance(answer, Failed)
    assert answer.kind == "prompt"
    submit(ready, engine, HELLO, 4)


def test_event_that_can_not_travel(ready: Harness, engine: HandEngine) -> None:
    sink = submit(ready, engine, HELLO, 3)
    submit(ready, engine, HELLO, 4)  # by then, the first one's ticket is known
    sink(Text("\ud800"))
    answer = ready.get()
    assert isinstance(answer, Failed)
    assert "the answer is lost" in answer.message
    assert ready.get() == Finished("cancelled", USAGE)


# How it ends


def test_close(ready: Harness, engine: HandEngine) -> None:
    ready.parent.send(Close())
    assert ready.code == 0
    assert engine.closed.is_set()


def test_close_while_loading(loading: Harness) -> None:
    loading.parent.send(Close())
    assert loading.code == 0


def test_parent_is_gone(ready: Harness, engine: HandEngine) -> None:
    submit(ready, engine, HELLO, 1)
    ready.parent.break_off()
    assert ready.code == 0


def test_parent_is_gone_before_the_start(start: Callable[[Load], Harness]) -> None:
    harness = start(lambda *_: pytest.fail("it loaded"))
    harness.parent.break_off()
    assert harness.code == 0


def test_parent_is_gone_while_making_the_engine_takes_long(
    start: Callable[[Load], Harness], engine: HandEngine
) -> None:
    release = threading.Event()

    def load(*_: object) -> HandEngine:
        release.wait(5)
        return engine

    harness = start(load)
    harness.parent.send(START)
    harness.parent.break_off()
    assert harness.code == 0
    release.set()
    engine.settle()


@pytest.mark.parametrize(
    ("error", "message", "code"),
    [
        (FormatError("it holds no entry", "Look"), "it holds no entry. Look", 4),
        (RuntimeError("bug"), "the engine failed to start: RuntimeError('bug')", 10),
    ],
)
def test_engine_that_can_not_be_made(
    start: Callable[[Load], Harness], error: Exception, message: str, code: int
) -> None:
    def load(*_: object) -> HandEngine:
        raise error

    harness = start(load)
    harness.parent.send(START)
    assert harness.get() == Status("failed", message=message)
    assert harness.code == code


def test_model_that_can_not_be_loaded(loading: Harness, engine: HandEngine) -> None:
    engine.settle("failed", "no memory")
    assert settled(loading) == Status("failed", message="no memory")
    assert loading.code == EngineError.exit_code


@pytest.mark.parametrize(
    ("kind", "code"), [("engine", EngineError.exit_code), ("changed", PackChangedError.exit_code)]
)
def test_engine_that_fails_later(ready: Harness, engine: HandEngine, kind: str, code: int) -> None:
    """It takes no more requests, and ends when everybody has been told."""
    first, second = submit(ready, engine, HELLO, 1), submit(ready, engine, HELLO, 2)
    engine.status = Status("failed", message="bug")
    first(Failed(kind, "bug"))
    assert [ready.get(), ready.get()] == [Status("loading"), Failed(kind, "bug")]
    with pytest.raises(TimeoutError):
        ready.parent.receive(0.05)
    assert ready.codes.empty()
    second(Failed("closed", "bug"))
    assert [ready.get(), ready.get()] == [Status("loading"), Failed("closed", "bug")]
    assert ready.code == code


@pytest.mark.parametrize(
    "given",
    [encode(HELLO), b"\xff" * 13, encode(START), encode(Text("a"))],
    ids=["early request", "no frame", "second start", "event"],
)
def test_nonsense_ends_it(loading: Harness, given: bytes) -> None:
    loading.parent.send_frame(bytearray(given))
    assert loading.code == EngineError.exit_code


def test_something_else_than_a_start(start: Callable[[Load], Harness]) -> None:
    harness = start(lambda *_: pytest.fail("it loaded"))
    harness.parent.send(HELLO)
    assert harness.code == EngineError.exit_code


def test_what_the_steps_bring_forth_travels_together(engine: HandEngine) -> None:
    harness = Harness(lambda _start, _progress: engine, flushes=True)
    harness.parent.send(START)
    engine.settle()
    while harness.get() != Status("ready", 1.0):
        pass
    first, second = submit(harness, engine, HELLO, 1), submit(harness, engine, HELLO, 2)
    first(Text("a"))
    second(Text("b"))
    with pytest.raises(TimeoutError):
        harness.parent.receive(0.05)
    harness.child.flush()
    assert [harness.get(), harness.get()] == [Text("a"), Text("b")]
    first(Text("c"))
    finished = Finished("stop", USAGE)
    second(finished)  # whatever else comes takes along what waits
    assert [harness.get(), harness.get()] == [Text("c"), finished]
    harness.end()
