from __future__ import annotations

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

from runtime_stub.engine import loaded
from runtime_stub.engine.engine import Engine
from runtime_stub.engine.messages import (
    FIT_REQUEST,
    EngineSettings,
    ModelSource,
    Sources,
)
from runtime_stub.errors import EngineError

__all__ = ["sample_engine", "sample_model", "sample_source"]

FRANCE = "What is the name of the capital of France?"


def test_facts(sample_engine: Engine) -> None:
    answered(sample_engine, ask(FRANCE, max_tokens=1))
    facts = sample_engine.facts
    assert facts is not None
    assert (facts.context, facts.context_reason) == (2048, "as asked")
    assert (facts.threads, facts.template) == (1, "model")
    assert facts.cpu_variant
    assert sample_engine.status.state == "ready"


def test_context_for_the_request(sample_source: ModelSource) -> None:
    engine = Engine(Sources(sample_source), EngineSettings(context=FIT_REQUEST, threads=1))
    try:
        engine.wait_ready()
        assert engine.facts is not None
        assert engine.facts.context == 0
        assert "Paris" in answered(engine, ask(FRANCE, max_tokens=20))
        assert engine.facts.context == 256
        answered(engine, ask(FRANCE, max_tokens=1000 - 30))
        assert engine.facts.context == 1024
        # A smaller one goes on in the context that is there.
        answered(engine, ask(FRANCE, max_tokens=5))
        assert engine.facts.context == 1024
    finally:
        engine.close()


def test_context_that_cannot_be_made(
    sample_source: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one before is gone then, and must not be used again."""
    engine = Engine(Sources(sample_source), EngineSettings(context=FIT_REQUEST, threads=1))
    try:
        answered(engine, ask(FRANCE, max_tokens=5))

        def refuse(*_arguments: Any) -> None:
            raise EngineError("no memory")

        with monkeypatch.context() as patch:
            patch.setattr(loaded, "Context", refuse)
            event = failed(list(engine.answer(ask(FRANCE, max_tokens=1000))))
            assert (event.kind, event.message) == ("engine", "no memory")
            failed(list(engine.answer(ask(FRANCE, max_tokens=5))))
        assert "Paris" in answered(engine, ask(FRANCE, max_tokens=20))
    finally:
        engine.close()


def test_context_larger_than_memory(sample_source: ModelSource) -> None:
    engine = Engine(Sources(sample_source), EngineSettings(context=2**31 - 1))
    with pytest.raises(EngineError, match=r"context of 2,147,483,647 tokens needs"):
        engine.wait_ready(20)
    event = failed(list(engine.answer(ask(FRANCE))))
    assert event.kind == "engine"
    assert "--context" in event.message
    engine.close()
