from __future__ import annotations

import queue
from pathlib import Path
from typing import Any

import pytest
from engine_fixtures import (
    ask,
    eventually,
    failed,
)
from fake_model import Fakes, end_all, fakes, short, started

from runtime_stub.engine import loaded
from runtime_stub.engine.engine import Engine
from runtime_stub.engine.messages import (
    EngineSettings,
    Event,
    ModelSource,
    Sources,
)
from runtime_stub.engine.scheduler import Scheduler
from runtime_stub.errors import EngineError

__all__ = ["fakes"]

FRANCE = "What is the name of the capital of France?"


def test_garbage_model(tmp_path: Path) -> None:
    path = tmp_path / "garbage"
    path.write_bytes(b"garbage" * 1000)
    with path.open("rb") as stream:
        engine = Engine(Sources(ModelSource(stream.fileno(), 0, 7000)), EngineSettings())
        with pytest.raises(EngineError, match="can't be loaded"):
            engine.wait_ready(20)
        event = failed(list(engine.answer(ask(FRANCE))))
    assert event.kind == "engine"
    assert "can't be loaded" in event.message
    assert engine.status.state == "failed"
    engine.close()
    assert failed(list(engine.answer(ask(FRANCE)))).kind in ("closed", "engine")


def test_requests_wait_for_the_model(fakes: Fakes) -> None:
    fakes.may_load.clear()
    fakes.step = end_all
    engine = started()
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    engine.submit(short(), events.put)
    assert not engine.wait_ready(0.05)
    assert engine.status.state == "loading"
    assert eventually(lambda: engine.status.progress == 0.5)
    assert engine.facts is None
    assert events.empty()
    fakes.may_load.set()
    assert failed([events.get(timeout=5)]).message == "scripted"
    assert engine.wait_ready()
    engine.close()
    assert fakes.model.freed == 1


def test_loading_that_raises_something_else(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(loaded, "load_weights", load)
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
    assert eventually(lambda: not engine._intake.is_alive())
    engine.close()
