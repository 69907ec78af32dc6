"""What the tests of engine, server and chat share: the sample model, and scripted engines."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from runtime_stub.engine.embedder import Embedder
from runtime_stub.engine.engine import Engine
from runtime_stub.engine.interface import Sink
from runtime_stub.engine.job import Job
from runtime_stub.engine.messages import (
    AnyRequest,
    EngineSettings,
    Event,
    Failed,
    Finished,
    ModelFacts,
    ModelSource,
    Request,
    Sampling,
    Sources,
    Status,
    Text,
    TokenizeRequest,
    Tokens,
    Usage,
)
from runtime_stub.engine.model import Model, load_model

SAMPLE_VARIABLE = "SATCHEL_SAMPLE_MODEL"
NO_USAGE = Usage(0, 0, 0, 0.0, 0.0)
GREEDY = Sampling(temperature=0)
FACTS = ModelFacts(
    "a model", 1_000_000, 2, 1000, 100, "as asked", 1, "x64", True, False, 9, "model"
)
"""Of a model with a context of 100 tokens."""


@pytest.fixture(scope="session")
def sample_model() -> Path:
    """The sample model's GGUF; the test is skipped where there is none."""
    name = os.environ.get(SAMPLE_VARIABLE)
    if not name:
        pytest.skip(f"{SAMPLE_VARIABLE} names no model")
    return Path(name)


@contextmanager
def loaded(path: Path) -> Iterator[Model]:
    """The model at `path`, its weights as they lie there."""
    with path.open("rb") as stream:
        model = load_model(ModelSource(stream.fileno(), 0, path.stat().st_size), lambda _: True)
        try:
            yield model
        finally:
            model.free()


@pytest.fixture(scope="session")
def sample_source(sample_model: Path) -> Iterator[ModelSource]:
    """The sample model as the engine takes it."""
    with sample_model.open("rb") as stream:
        yield ModelSource(stream.fileno(), 0, sample_model.stat().st_size)


@pytest.fixture(scope="session")
def sample_engine(sample_source: ModelSource) -> Iterator[Engine]:
    """One engine that answers four requests at once, for all tests that leave it running."""
    # One thread: several wait for each other in busy loops, which is slow on a busy machine.
    engine = Engine(Sources(sample_source), EngineSettings(context=2048, parallel=4, threads=1))
    engine.wait_ready(60)
    yield engine
    engine.close()


def ask(
    question: str, *, max_tokens: int = 24, sampling: Sampling = GREEDY, **more: Any
) -> Request:
    """A question with the system prompt that the sample model does best with."""
    return Request(
        messages=(
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": question},
        ),
        sampling=sampling,
        max_tokens=max_tokens,
        **more,
    )


def text_of(events: list[Event]) -> str:
    """The answer."""
    return "".join(event.text for event in events if isinstance(event, Text))


def finished(events: list[Event]) -> Finished:
    """The last event, of a request that was answered."""
    assert isinstance(events[-1], Finished), events
    return events[-1]


def failed(events: list[Event]) -> Failed:
    """The last event, of a request that was not."""
    assert isinstance(events[-1], Failed), events
    return events[-1]


def answered(engine: Engine, request: Request) -> str:
    """The answer of an engine."""
    events = list(engine.answer(request))
    finished(events)
    return text_of(events)


def worked_out(embedder: Embedder, request: AnyRequest) -> Event:
    """What an embedder of its own answers."""
    events: list[Event] = []
    embedder.add(Job(request, events.append))
    while not embedder.idle:
        embedder.step()
    (event,) = events
    return event


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Whether `condition` becomes true in time."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.005)
    return True


class ScriptedTicket:
    """A ticket that notes whether it was cancelled."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()

    def cancel(self) -> None:
        self.cancelled.set()


class ScriptedEngine(Engine):
    """Plays prepared events to each request, from a thread as the real one does.

    A list of events may contain numbers: pauses in seconds. After the last event nothing
    comes until the ticket is cancelled, which ends the request.
    """

    def __init__(
        self,
        *scripts: list[Event | float],
        status: Status | None = None,
        facts: ModelFacts | None = None,
        count: Callable[[TokenizeRequest], int] | None = None,
    ) -> None:
        """`count` answers each TokenizeRequest, which takes no script."""
        self.scripts = list(scripts)
        self._facts = facts
        self._count = count
        self.requests: list[Any] = []
        self.tickets: list[ScriptedTicket] = []
        self._status = status or Status("ready", 1.0)
        self.unloads_in: float | None = None
        self.told: list[Any] = []
        """What was said about loading: "load", "unload" and seconds."""

    @property
    def status(self) -> Status:
        return self._status

    @property
    def facts(self) -> ModelFacts | None:
        return self._facts

    def submit(self, request: AnyRequest, sink: Sink) -> ScriptedTicket:  # type: ignore[override]
        ticket = ScriptedTicket()
        if isinstance(request, TokenizeRequest) and self._count is not None:
            sink(Tokens(tuple(range(self._count(request)))))
            return ticket
        self.requests.append(request)
        self.tickets.append(ticket)
        script = self.scripts.pop(0)
        threading.Thread(target=self._play, args=(script, sink, ticket), daemon=True).start()
        return ticket

    def load(self) -> None:
        self.told.append("load")
        if self._status.state == "unloaded":
            self._status = Status("ready", 1.0)

    def unload(self) -> None:
        self.told.append("unload")
        self._status = Status("unloaded")

    def unload_after(self, seconds: float | None) -> None:
        self.told.append(seconds)
        self.unloads_in = seconds

    def _play(self, script: list[Event | float], sink: Sink, ticket: ScriptedTicket) -> None:
        for step in script:
            if isinstance(step, (int, float)):
                ticket.cancelled.wait(step)
            elif not ticket.cancelled.is_set():
                sink(step)
        if ticket.cancelled.wait(20):
            sink(Finished("cancelled", NO_USAGE))
