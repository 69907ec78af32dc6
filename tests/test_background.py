from __future__ import annotations

import threading

import pytest
from engine_fixtures import FACTS, NO_USAGE, ScriptedEngine, eventually

from runtime_stub.chat.background import BackgroundEngine, OnProgress
from runtime_stub.engine.messages import Event, Failed, Finished, Request, Text
from runtime_stub.errors import EngineError, SpaceError

SAID: list[Event | float] = [Text("a"), Finished("stop", NO_USAGE)]


class Gate:
    """Makes an engine when it is let."""

    def __init__(self, engine: ScriptedEngine | Exception) -> None:
        self._engine = engine
        self.open = threading.Event()
        self.asked = threading.Event()
        self.progress: OnProgress = lambda _: None
        """Once it was `asked`, what it tells how far it is."""

    def __call__(self, on_progress: OnProgress) -> ScriptedEngine:
        self.progress = on_progress
        self.asked.set()
        self.open.wait(10)
        if isinstance(self._engine, Exception):
            raise self._engine
        return self._engine


def test_requests_wait_for_the_engine() -> None:
    gate = Gate(ScriptedEngine(SAID, SAID, facts=FACTS))
    engine = BackgroundEngine(gate)
    assert engine.status.state == "loading"
    assert engine.facts is None
    assert not engine.wait_ready(0.01)
    events: list[Event] = []
    engine.submit(Request(), events.append)
    gate.open.set()
    assert eventually(lambda: events == SAID)
    assert list(engine.answer(Request())) == SAID
    assert engine.status.state == "ready"
    assert engine.facts is FACTS


def test_progress_of_what_comes_before_loading() -> None:
    gate = Gate(ScriptedEngine())
    engine = BackgroundEngine(gate)
    assert not engine.extracting
    assert gate.asked.wait(10)
    gate.progress(0.25)
    assert (engine.extracting, engine.status.progress) == (True, 0.25)
    gate.progress(1.0)
    assert not engine.extracting
    gate.open.set()


@pytest.mark.parametrize(
    ("raised", "expected"),
    [(SpaceError("no room", "Make some"), "no room"), (ValueError("bug"), "bug")],
)
def test_failure_is_every_answer(raised: Exception, expected: str) -> None:
    gate = Gate(raised)
    engine = BackgroundEngine(gate)
    events: list[Event] = []
    engine.submit(Request(), events.append)
    gate.open.set()
    assert eventually(lambda: bool(events))
    (early,) = events
    (late,) = engine.answer(Request())
    for event in (early, late):
        assert isinstance(event, Failed)
        assert expected in event.message
    with pytest.raises((SpaceError, EngineError), match=expected):
        engine.wait_ready()
    assert engine.status.state == "failed"
    engine.close()


def test_cancelled_while_it_waits() -> None:
    inner = ScriptedEngine(SAID)
    gate = Gate(inner)
    engine = BackgroundEngine(gate)
    events: list[Event] = []
    ticket = engine.submit(Request(), events.append)
    ticket.cancel()
    gate.open.set()
    assert eventually(lambda: events == [Finished("cancelled", NO_USAGE)])
    assert inner.requests == []


def test_cancelled_later() -> None:
    inner = ScriptedEngine([Text("a")])
    gate = Gate(inner)
    engine = BackgroundEngine(gate)
    events: list[Event] = []
    ticket = engine.submit(Request(), events.append)
    gate.open.set()
    assert eventually(lambda: bool(events))
    ticket.cancel()
    assert eventually(inner.tickets[0].cancelled.is_set)
