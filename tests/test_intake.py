from __future__ import annotations

import queue
import threading
from typing import Any

import pytest
from engine_fixtures import (
    answered,
    ask,
    failed,
    sample_engine,
    sample_model,
    sample_source,
)
from fake_model import Fakes, end_all, fakes, short, started

from runtime_stub.engine.engine import Engine
from runtime_stub.engine.messages import (
    EngineSettings,
    Event,
    ModelSource,
    Request,
    Sources,
)

__all__ = ["fakes", "sample_engine", "sample_model", "sample_source"]

FRANCE = "What is the name of the capital of France?"


def test_too_long(sample_engine: Engine) -> None:
    event = failed(list(sample_engine.answer(Request(text="word " * 3000))))
    assert event.kind == "too-long"
    assert "2,048" in event.message
    assert "3,00" in event.message


def test_refused_by_the_template(sample_engine: Engine) -> None:
    bad = Request(messages=({"role": "user", "content": {"no": "text"}},))
    event = failed(list(sample_engine.answer(bad)))
    assert event.kind == "prompt"
    assert "Paris" in answered(sample_engine, ask(FRANCE))


def test_broken_template_fails_requests_only(sample_source: ModelSource) -> None:
    settings = EngineSettings(context=256, threads=1, template="{% broken")
    engine = Engine(Sources(sample_source), settings)
    for _ in range(2):
        assert failed(list(engine.answer(ask(FRANCE)))).kind == "prompt"
    raw = Request(text="x", max_tokens=1)
    assert failed(list(engine.answer(raw))).kind == "prompt"
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
