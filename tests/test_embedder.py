from __future__ import annotations

import math

import pytest
from engine_fixtures import sample_engine, sample_model, sample_source

from runtime_stub.engine.embedder import Embedder
from runtime_stub.engine.engine import Engine
from runtime_stub.engine.hardware import Hardware
from runtime_stub.engine.messages import Embeddings, EmbedRequest, Failed, RerankRequest
from runtime_stub.errors import EngineError

__all__ = ["sample_engine", "sample_model", "sample_source"]


def embed(engine: Engine, *texts: str, normalise: bool = True) -> Embeddings:
    (event,) = engine.answer(EmbedRequest(texts, normalise))
    assert isinstance(event, Embeddings), event
    return event


def likeness(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    return math.fsum(a * b for a, b in zip(first, second, strict=True))


def test_like_texts_have_like_vectors(sample_engine: Engine) -> None:
    found = embed(sample_engine, "A dog barks.", "A dog is barking.", "Stock prices fell by 3 %.")
    dog, barking, stocks = found.vectors
    assert len(dog) == 576
    assert math.isclose(likeness(dog, dog), 1.0, rel_tol=1e-3)
    assert likeness(dog, barking) > likeness(dog, stocks)
    assert found.tokens > 10


def test_not_normalised(sample_engine: Engine) -> None:
    (vector,) = embed(sample_engine, "A dog barks.", normalise=False).vectors
    assert not math.isclose(likeness(vector, vector), 1.0, rel_tol=0.05)


def test_what_can_not_be_embedded(sample_engine: Engine) -> None:
    for text in ("", "word " * 9000):
        (event,) = sample_engine.answer(EmbedRequest((text,)))
        assert isinstance(event, Failed)
        assert event.kind == "prompt"


def test_a_model_that_can_not_rank_says_so(sample_engine: Engine) -> None:
    (event,) = sample_engine.answer(RerankRequest("query", ("document",)))
    assert isinstance(event, Failed)
    assert event.kind == "unsupported"


def test_a_text_read_in_pieces_is_one_text(sample_engine: Engine) -> None:
    """Longer than one piece; a beginning that is the same makes vectors alike, not equal."""
    long = "A dog barks at the postman every morning. " * 70
    found = embed(sample_engine, long, f"{long} And then?", "Stock prices fell by 3 %.")
    assert found.tokens > 2 * 512
    first, longer, stocks = found.vectors
    assert 0.98 < likeness(first, longer) < 0.9999999
    assert likeness(first, stocks) < likeness(first, longer)


def test_what_memory_does_not_allow_is_refused(
    sample_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "runtime_stub.engine.embedder.read_hardware", lambda: Hardware(1, 1, 1 << 30, 100 << 20)
    )
    (event,) = sample_engine.answer(EmbedRequest(("word " * 3000,)))
    assert isinstance(event, Failed)
    assert "are free" in event.message
    monkeypatch.undo()
    embed(sample_engine, "A dog barks.")


def test_what_others_will_use_is_not_free(
    sample_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And where memory is short, the context for embeddings does not stay."""
    loaded = sample_engine._standing.loaded
    assert loaded is not None
    embedder = Embedder(loaded.model, 1, reserved=600 << 20)
    free = 1 << 30
    monkeypatch.setattr(
        "runtime_stub.engine.embedder.read_hardware", lambda: Hardware(1, 1, 1 << 30, free)
    )
    with pytest.raises(EngineError, match="are free"):
        embedder.embed("word " * 3000, normalise=True)
    assert embedder.embed("A dog barks.", normalise=True)[1] > 3
    embedder.rest()
    assert embedder._handle
    free = 700 << 20
    embedder.rest()
    assert not embedder._handle
