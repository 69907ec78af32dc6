from __future__ import annotations

import math

from engine_fixtures import sample_engine, sample_model, sample_source

from runtime_stub.engine.engine import Engine
from runtime_stub.engine.messages import Embeddings, EmbedRequest, Failed, RerankRequest

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
