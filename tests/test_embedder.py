from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_embedders
import tiny_models
from engine_fixtures import (
    eventually,
    failed,
    finished,
    loaded,
    sample_engine,
    sample_model,
    sample_source,
    worked_out,
)

from runtime_stub.engine.embedder import BESIDE, Embedder
from runtime_stub.engine.engine import Engine
from runtime_stub.engine.hardware import Hardware
from runtime_stub.engine.inputs import Inputs
from runtime_stub.engine.job import Job
from runtime_stub.engine.messages import (
    AnyRequest,
    Embeddings,
    EmbedRequest,
    EngineSettings,
    Event,
    Failed,
    Finished,
    ModelSource,
    Request,
    RerankRequest,
    Sampling,
    Scores,
    Sources,
    Text,
)
from runtime_stub.engine.model import Model
from runtime_stub.engine.vector_context import VectorContext

__all__ = ["sample_engine", "sample_model", "sample_source"]

LONG = tiny_models.CHARACTERS * 10
"""A text that is read in several pieces."""
ALWAYS_GOES_ON = Sampling(
    temperature=0,
    logit_bias=tuple((token, float("-inf")) for token in (tiny_models.END, tiny_models.END + 1)),
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.plain(tmp_path_factory.mktemp("embedder") / "model.gguf")


@pytest.fixture(scope="module")
def model(tiny: Path) -> Iterator[Model]:
    with loaded(tiny) as model:
        yield model


@pytest.fixture
def embedder(model: Model) -> Iterator[Embedder]:
    embedder = Embedder(model, 1)
    yield embedder
    embedder.free()


def engine_of(
    path: Path,
    stack: list[Any],
    after_step: Callable[[], None] = lambda: None,
    **settings: Any,
) -> Engine:
    stream = path.open("rb")
    source = ModelSource(stream.fileno(), 0, path.stat().st_size)
    chosen = EngineSettings(context=1024, parallel=2, threads=1, **settings)
    engine = Engine(Sources(source), chosen, after_step=after_step)
    stack.append((engine, stream))
    engine.wait_ready(60)
    return engine


@pytest.fixture
def engines() -> Iterator[list[Any]]:
    """Engines to be closed, each with its file."""
    made: list[Any] = []
    yield made
    for engine, stream in made:
        engine.close()
        stream.close()


class Asked:
    """A request in an embedder, and what was said to it."""

    def __init__(self, embedder: Embedder, request: AnyRequest, **job: Any) -> None:
        self.events: list[Event] = []
        self.job = Job(request, self.events.append, **job)
        embedder.add(self.job)


def embed(engine: Engine, *texts: str, normalise: bool = True) -> Embeddings:
    (event,) = engine.answer(EmbedRequest(texts, normalise))
    assert isinstance(event, Embeddings), event
    return event


def likeness(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    return math.fsum(a * b for a, b in zip(first, second, strict=True))


# Vectors.


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
        "runtime_stub.engine.vector_context.read_hardware",
        lambda: Hardware(1, 1, 1 << 30, 100 << 20),
    )
    (event,) = sample_engine.answer(EmbedRequest(("word " * 3000,)))
    assert isinstance(event, Failed)
    assert "are free" in event.message
    monkeypatch.undo()
    embed(sample_engine, "A dog barks.")


def test_nothing_to_embed(embedder: Embedder) -> None:
    assert worked_out(embedder, EmbedRequest(())) == Embeddings((), 0)


def test_a_text_that_is_cut(embedder: Embedder) -> None:
    """What does not fit makes no difference, whatever it is."""
    most = 4096
    exact = (LONG * 10)[:most]
    found = [
        worked_out(embedder, EmbedRequest((text,), truncate=True))
        for text in (exact, exact + "more", exact + LONG)
    ]
    assert isinstance(found[0], Embeddings)
    assert found[0].tokens == most
    assert found == [found[0]] * 3
    refused = worked_out(embedder, EmbedRequest((exact + "more",)))
    assert isinstance(refused, Failed)
    assert (refused.kind, "at most 4,096" in refused.message) == ("prompt", True)


# Scores.


def test_a_model_that_can_not_rank_says_so(sample_engine: Engine) -> None:
    (event,) = sample_engine.answer(RerankRequest("query", ("document",)))
    assert isinstance(event, Failed)
    assert event.kind == "unsupported"


@pytest.mark.parametrize("name", ["ranking", "bert"])
def test_scores(
    name: str, tmp_path: Path, engines: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.gguf"
    if name == "bert":
        tiny_embedders.bert(path, ranks=True)
    else:
        tiny_embedders.ranking(path)
    fed: list[list[int]] = []
    begin = VectorContext.begin

    def note(self: VectorContext, tokens: list[int], *mix: Any) -> None:
        fed.append(tokens)
        begin(self, tokens, *mix)

    monkeypatch.setattr(VectorContext, "begin", note)
    engine = engine_of(path, engines)
    (event,) = engine.answer(RerankRequest("who", ("me", "you", "me")))
    assert isinstance(event, Scores), event
    me, you, same = event.scores
    assert me == same != you
    with loaded(path) as model:
        inputs = Inputs(model, 100)
        assert fed == [inputs.pair("who", document) for document in ("me", "you", "me")]
    assert event.tokens == sum(map(len, fed))


def test_a_model_that_ranks_makes_no_vectors(tmp_path: Path, engines: list[Any]) -> None:
    engine = engine_of(tiny_embedders.ranking(tmp_path / "model.gguf"), engines)
    event = failed(list(engine.answer(EmbedRequest(("a",)))))
    assert (event.kind, "makes no vectors" in event.message) == ("unsupported", True)
    assert engine.facts is not None
    assert (engine.facts.embeddings, engine.facts.rerank) == (False, True)


# One piece after the other.


def test_a_step_is_one_piece(embedder: Embedder, model: Model) -> None:
    alone = worked_out(embedder, EmbedRequest((LONG,)))
    asked = Asked(embedder, EmbedRequest((LONG, "short")))
    steps = 0
    while not embedder.idle:
        embedder.step(beside=True)
        steps += 1
    assert steps == -(-len(LONG) // BESIDE) + 1
    (event,) = asked.events
    assert isinstance(alone, Embeddings)
    assert isinstance(event, Embeddings)
    assert event.vectors[0] == pytest.approx(alone.vectors[0], abs=1e-5)
    assert event.tokens == len(LONG) + len("short")


def test_nobody_waits_for_a_long_request(embedder: Embedder) -> None:
    long = Asked(embedder, EmbedRequest(tuple(f"text{number}" for number in range(50))))
    embedder.step()
    short = Asked(embedder, EmbedRequest(("text7", "text8")))
    for _ in range(4):
        embedder.step()
    (found,) = short.events
    assert not long.events
    while not embedder.idle:
        embedder.step()
    (event,) = long.events
    assert isinstance(found, Embeddings)
    assert isinstance(event, Embeddings)
    assert event.vectors[7:9] == found.vectors
    assert len(set(event.vectors)) == 50


def test_few_take_turns(embedder: Embedder) -> None:
    """What they have so far takes memory."""
    several = [Asked(embedder, EmbedRequest(("one", "two"))) for _ in range(6)]
    for _ in range(4):
        embedder.step()
    begun = [work.begun for work in embedder._works]
    assert begun == [True] * 4 + [False] * 2
    while not embedder.idle:
        embedder.step()
    assert len({str(asked.events) for asked in several}) == 1


def test_cancelled_in_the_middle(embedder: Embedder) -> None:
    """Of a text, and nobody else notices."""
    expected = worked_out(embedder, EmbedRequest((LONG,)))
    asked, other = (Asked(embedder, EmbedRequest((LONG, text))) for text in ("one", "two"))
    embedder.step(beside=True)
    asked.job.cancelled = True
    embedder.step(beside=True)
    (event,) = asked.events
    assert isinstance(event, Finished)
    assert (event.reason, event.usage.prompt_tokens) == ("cancelled", len(LONG))
    waiting = Asked(embedder, EmbedRequest(("three",)))
    waiting.job.cancelled = True
    embedder.step(beside=True)
    assert [type(event) for event in waiting.events] == [Finished]
    assert not other.events
    while not embedder.idle:
        embedder.step(beside=True)
    (found,) = other.events
    assert isinstance(found, Embeddings)
    assert isinstance(expected, Embeddings)
    assert found.vectors[0] == pytest.approx(expected.vectors[0], abs=1e-5)


def test_deadlines(embedder: Embedder) -> None:
    """Looked at before each piece, for those that wait, too."""
    asked, other, waiting = (Asked(embedder, EmbedRequest((LONG, LONG))) for _ in range(3))
    embedder.step(beside=True)
    asked.job.deadline = waiting.job.deadline = time.monotonic() - 1
    embedder.step(beside=True)
    assert asked.events == [Failed("timeout", "the request took too long")]
    assert waiting.events == [Failed("timeout", "the request waited too long for its turn")]
    assert not other.events
    while not embedder.idle:
        embedder.step()
    assert isinstance(other.events[0], Embeddings)


def test_a_text_that_can_not_be_read_ends_its_request_only(embedder: Embedder) -> None:
    asked, other = (Asked(embedder, EmbedRequest(texts)) for texts in (("a", ""), ("a", "b")))
    while not embedder.idle:
        embedder.step()
    assert failed(asked.events).kind == "prompt"
    assert isinstance(other.events[0], Embeddings)


# Beside others, in an engine.


@pytest.fixture
def slow_pieces(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes each piece that is read, and takes its time."""
    happened: list[str] = []
    read = VectorContext.read

    def noted(self: VectorContext, most: int) -> Any:
        time.sleep(0.005)
        happened.append("piece")
        return read(self, most)

    monkeypatch.setattr(VectorContext, "read", noted)
    return happened


def test_a_stream_flows_between_pieces(
    tiny: Path, engines: list[Any], slow_pieces: list[str]
) -> None:
    """One that comes while texts are embedded is begun before they are done, and each of its
    tokens leaves before the next piece is read."""
    happened = slow_pieces
    engine = engine_of(tiny, engines, lambda: happened.append("sent"), drafts=False)
    vectors: list[Event] = []
    answer: list[Event] = []

    def note(event: Event) -> None:
        answer.append(event)
        happened.append("token" if isinstance(event, Text) else "other")

    texts = tuple(f"{number}{LONG[:10]}" for number in range(200))
    engine.submit(EmbedRequest(texts), vectors.append)
    assert eventually(lambda: len(happened) > 3)
    engine.submit(Request(text="Hello", max_tokens=60, sampling=ALWAYS_GOES_ON), note)
    assert eventually(lambda: bool(answer) and isinstance(answer[-1], Finished))
    assert not vectors
    tokens = [place for place, event in enumerate(happened) if event == "token"]
    between = happened[tokens[0] : tokens[-1] + 1]
    assert {happened[place + 1] for place in tokens[:-1]} == {"sent"}
    assert between.count("piece") > 40
    assert ["piece"] * 2 not in [between[place : place + 2] for place in range(len(between))]
    assert finished(answer).usage.completion_tokens == 60
    assert eventually(lambda: bool(vectors))
    assert isinstance(vectors[0], Embeddings)
    assert vectors[0] == Embeddings(
        tuple(embed(engine, text).vectors[0] for text in texts), vectors[0].tokens
    )


def test_late_in_an_engine(tiny: Path, engines: list[Any], slow_pieces: list[str]) -> None:
    """It is told in time, and costs nobody else anything."""
    engine = engine_of(tiny, engines, timeout=0.5)
    began = time.monotonic()
    event = failed(list(engine.answer(EmbedRequest(("text",) * 2000))))
    assert event == Failed("timeout", "the request took too long")
    assert time.monotonic() - began < 3
    assert embed(engine, "text").tokens == 4


def test_cancelled_in_an_engine(tiny: Path, engines: list[Any], slow_pieces: list[str]) -> None:
    engine = engine_of(tiny, engines)
    events: list[Event] = []
    ticket = engine.submit(EmbedRequest(("text",) * 2000), events.append)
    assert eventually(lambda: len(slow_pieces) > 3)
    ticket.cancel()
    assert eventually(lambda: bool(events))
    assert finished(events).reason == "cancelled"
    assert len(slow_pieces) < 1000


def test_an_engine_that_is_closed_waits_for_no_text(
    tiny: Path, engines: list[Any], slow_pieces: list[str]
) -> None:
    engine = engine_of(tiny, engines)
    events: list[Event] = []
    engine.submit(EmbedRequest(("text",) * 2000), events.append)
    assert eventually(lambda: len(slow_pieces) > 3)
    engine.close()
    assert failed(events).kind == "closed"
