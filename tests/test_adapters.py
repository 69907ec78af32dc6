"""Adapters in a running engine: each must answer as it would if there were no other."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import tiny_models
from engine_fixtures import eventually

from runtime_stub.engine.engine import Engine
from runtime_stub.engine.messages import (
    FIT_REQUEST,
    AdapterSource,
    Embeddings,
    EmbedRequest,
    EngineSettings,
    Event,
    Failed,
    Finished,
    ModelSource,
    Request,
    Sampling,
    Sources,
    Text,
)
from runtime_stub.errors import EngineError

ALWAYS_GOES_ON = Sampling(
    temperature=0,
    logit_bias=tuple((token, float("-inf")) for token in (tiny_models.END, tiny_models.END + 1)),
)
NAMES = ("red", "blue")
PROMPT = "aQuiteLongPromptThatIsWorthKeeping"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and its adapters; before one of them lies something else."""
    folder = tmp_path_factory.mktemp("adapters")
    tiny_models.plain(folder / "model.gguf")
    for name in NAMES:
        tiny_models.adapter(folder / f"{name}.gguf", name)
    blue = folder / "blue.gguf"
    (folder / "inside").write_bytes(b"x" * 65536 + blue.read_bytes() + b"y" * 100)
    return folder


@contextmanager
def running(files: Path, *adapters: AdapterSource, parallel: int = 4) -> Iterator[Engine]:
    with ExitStack() as stack:
        sources = Sources(opened(stack, files / "model.gguf"), adapters)
        engine = Engine(sources, EngineSettings(1024, parallel, threads=1, batch=48))
        stack.callback(engine.close)
        engine.wait_ready(60)
        yield engine


def opened(stack: ExitStack, path: Path, offset: int = 0, length: int = 0) -> ModelSource:
    descriptor = os.open(path, os.O_RDONLY)
    stack.callback(os.close, descriptor)
    return ModelSource(descriptor, offset, length or path.stat().st_size - offset)


@pytest.fixture(scope="module")
def adapters(files: Path) -> Iterator[tuple[AdapterSource, ...]]:
    size = (files / "blue.gguf").stat().st_size
    with ExitStack() as stack:
        yield (
            AdapterSource("red", opened(stack, files / "red.gguf")),
            AdapterSource("blue", opened(stack, files / "inside", 65536, size), scale=0.5),
        )


@pytest.fixture
def engine(files: Path, adapters: tuple[AdapterSource, ...]) -> Iterator[Engine]:
    with running(files, *adapters) as made:
        yield made


def request(
    chosen: Sequence[tuple[str, float | None]] | None = None, prompt: str = PROMPT, count: int = 24
) -> Request:
    return Request(
        text=prompt,
        max_tokens=count,
        sampling=ALWAYS_GOES_ON,
        adapters=None if chosen is None else tuple(chosen),
    )


def text_of(events: Sequence[Event]) -> str:
    assert isinstance(events[-1], Finished), events[-1]
    return "".join(event.text for event in events if isinstance(event, Text))


def asked(engine: Engine, wanted: Request) -> str:
    return text_of(list(engine.answer(wanted)))


MIXES: dict[str, tuple[tuple[str, float | None], ...]] = {
    "none": (),
    "red": (("red", None),),
    "blue": (("blue", None),),
    "strong blue": (("blue", 1.0),),
    "both": (("blue", 0.25), ("red", 0.5)),
}


@pytest.fixture(scope="module")
def expected(files: Path, adapters: tuple[AdapterSource, ...]) -> dict[str, str]:
    """The answer to each mix, from an engine that was never asked for another."""
    answers = {}
    for name, mix in MIXES.items():
        with running(files, *adapters) as fresh:
            answers[name] = asked(fresh, request(mix))
    return answers


def test_each_mix_says_something_else(expected: dict[str, str]) -> None:
    assert len(set(expected.values())) == len(MIXES)


def test_one_after_the_other(engine: Engine, expected: dict[str, str]) -> None:
    # What one has read is not what another would have: nothing is taken over between them.
    for name in [*MIXES, *reversed(MIXES)]:
        assert asked(engine, request(MIXES[name])) == expected[name], name


def test_all_at_once(engine: Engine, expected: dict[str, str]) -> None:
    answers = {name: engine.answer(request(mix)) for name, mix in MIXES.items()}
    firsts = {name: next(answer) for name, answer in answers.items()}
    for name, answer in answers.items():
        assert text_of([firsts[name], *answer]) == expected[name], name


def test_the_own_prefix_is_reused(engine: Engine) -> None:
    for name in ("red", "blue", "none"):
        asked(engine, request(MIXES[name]))
    for name in ("red", "blue", "none"):
        last = list(engine.answer(request(MIXES[name])))[-1]
        assert isinstance(last, Finished)
        assert last.usage.cached_tokens == len(PROMPT) - 1


def test_scale_of_zero_is_none(engine: Engine, expected: dict[str, str]) -> None:
    assert asked(engine, request([("red", 0.0)])) == expected["none"]


def test_nothing_chosen(engine: Engine, expected: dict[str, str]) -> None:
    assert asked(engine, request(None)) == expected["none"]


def test_always(files: Path, expected: dict[str, str]) -> None:
    with ExitStack() as stack:
        red = AdapterSource("red", opened(stack, files / "red.gguf"), always=True)
        with running(files, red) as engine:
            assert asked(engine, request(None)) == expected["red"]
            assert asked(engine, request([])) == expected["none"]
            # Choices share a prompt that was read with it.
            several = Request(text=PROMPT, max_tokens=8, sampling=ALWAYS_GOES_ON, choices=3)
            texts = ["", "", ""]
            for event in engine.answer(several):
                if isinstance(event, Text):
                    texts[event.choice] += event.text
            assert texts == [expected["red"][:8]] * 3


def vector(engine: Engine, chosen: Sequence[tuple[str, float | None]] | None) -> tuple[float, ...]:
    adapters = None if chosen is None else tuple(chosen)
    (event,) = engine.answer(EmbedRequest((PROMPT,), adapters=adapters))
    assert isinstance(event, Embeddings), event
    return event.vectors[0]


def test_vectors(files: Path, adapters: tuple[AdapterSource, ...], engine: Engine) -> None:
    """Each mix makes others, whatever was computed before and is answered meanwhile."""
    expected = {}
    for name, mix in MIXES.items():
        with running(files, *adapters) as fresh:
            expected[name] = vector(fresh, mix)
    assert len(set(expected.values())) == len(MIXES)
    assert asked(engine, request(MIXES["red"]))
    for name in [*MIXES, *reversed(MIXES)]:
        assert vector(engine, MIXES[name]) == expected[name], name
    assert vector(engine, None) == expected["none"]
    requests = {name: EmbedRequest((PROMPT,) * 5, adapters=mix) for name, mix in MIXES.items()}
    answers: dict[str, list[Event]] = {name: [] for name in MIXES}
    for name, wanted in requests.items():
        engine.submit(wanted, answers[name].append)
    assert eventually(lambda: all(answers.values()))
    for name, (event,) in answers.items():
        assert isinstance(event, Embeddings)
        assert event.vectors == (expected[name],) * 5, name


def test_vectors_with_what_always_works(files: Path) -> None:
    with ExitStack() as stack:
        red = AdapterSource("red", opened(stack, files / "red.gguf"), always=True)
        with running(files, red) as engine:
            assert vector(engine, None) == vector(engine, MIXES["red"]) != vector(engine, ())


def test_unknown_to_vectors(engine: Engine) -> None:
    (event,) = engine.answer(EmbedRequest(("a",), adapters=(("green", 1.0),)))
    assert isinstance(event, Failed)
    assert event.message == "there is no adapter 'green'; known: red, blue"


def test_unknown(engine: Engine) -> None:
    last = list(engine.answer(request([("green", 1.0)])))[-1]
    assert isinstance(last, Failed)
    assert (last.kind, last.message) == ("prompt", "there is no adapter 'green'; known: red, blue")


def test_what_is_no_adapter(files: Path) -> None:
    with ExitStack() as stack:
        wrong = AdapterSource("wrong", opened(stack, files / "model.gguf"))
        engine = Engine(
            Sources(opened(stack, files / "model.gguf"), (wrong,)), EngineSettings(256, threads=1)
        )
        stack.callback(engine.close)
        with pytest.raises(EngineError, match=r"the adapter 'wrong' can't be loaded: .*adapter"):
            engine.wait_ready(60)


def test_an_adapter_in_a_context_made_for_its_request(
    files: Path, adapters: tuple[AdapterSource, ...]
) -> None:
    """llama.cpp makes its buffers anew for the adapter: those from before are gone."""
    with ExitStack() as stack:
        sources = Sources(opened(stack, files / "model.gguf"), adapters)
        engine = Engine(sources, EngineSettings(FIT_REQUEST, threads=1))
        stack.callback(engine.close)
        texts = [asked(engine, request((("red", None),))) for _ in range(2)]
    assert texts[0] == texts[1]
