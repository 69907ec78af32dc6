"""A request that is alone gets the same answer, bit by bit, whatever was asked before."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from engine_fixtures import finished, sample_model, sample_source

from runtime_stub.engine.engine import Engine
from runtime_stub.engine.messages import (
    AdapterSource,
    EngineSettings,
    Event,
    ModelSource,
    Request,
    Sampling,
    Sources,
    Text,
)

__all__ = ["sample_model", "sample_source"]

SYSTEM = {"role": "system", "content": "You are a helpful assistant."}
ASKED = "What is the weather in Paris and Rome?"
OTHERS = (
    ASKED,
    "Give an example",
    "Why is the sky blue?",
    "Tell me a long story about a dog that walks through a city at night, with all that it sees.",
    "Name three colours.",
)


def chat(text: str, **fields: object) -> Request:
    messages = (SYSTEM, {"role": "user", "content": text})
    return Request(messages=messages, **fields)  # type: ignore[arg-type]


def odds(events: list[Event]) -> list[tuple[bytes, float]]:
    """Tokens and their probabilities: more than the text can tell."""
    return [
        (token.raw, token.logprob)
        for event in events
        if isinstance(event, Text)
        for token in event.logprobs
    ]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_the_same_whatever_was_asked_before(sample_source: ModelSource, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311
    greedy = chat(ASKED, sampling=Sampling(temperature=0), max_tokens=24, logprobs=1)
    settings = EngineSettings(parallel=4, context=2048)
    with closing(Engine(Sources(sample_source), settings)) as engine:
        engine.wait_ready(60)
        wanted = odds(list(engine.answer(greedy)))
        assert len(wanted) == 24
        for _ in range(12):
            for _ in range(chance.randint(0, 3)):
                sampling = Sampling(seed=chance.randint(0, 99))
                other = chat(
                    chance.choice(OTHERS),
                    sampling=sampling,
                    max_tokens=chance.choice((1, 7, 20, 60)),
                    choices=chance.choice((1, 1, 3)),
                )
                finished(list(engine.answer(other)))
            assert odds(list(engine.answer(greedy))) == wanted


MODELS: dict[str, tuple[Callable[[Path], Path], dict[str, Any]]] = {
    "plain": (tiny_models.plain, {}),
    "short keys": (partial(tiny_models.plain, head=32), {"kv": "q8_0"}),
    "without flash attention": (tiny_models.plain, {"flash_attention": False}),
    "sliding": (tiny_models.sliding, {}),
    "sliding, quantized": (partial(tiny_models.sliding, quantized=True), {}),
    "recurrent": (tiny_models.recurrent, {}),
    "hybrid": (tiny_models.hybrid, {}),
}
"""Models of which nothing is promised where they need not read all of a prompt."""


@pytest.mark.parametrize("choices", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_the_same_from_any_model_that_reads_it_all(name: str, choices: int, tmp_path: Path) -> None:
    make, how = MODELS[name]
    with opened(make(tmp_path / "model.gguf")) as model:
        compare_fresh(Sources(model), choices, **how)


@pytest.mark.parametrize("choices", [1, 3])
def test_the_same_with_an_adapter_and_a_draft_model(choices: int, tmp_path: Path) -> None:
    files = (
        tiny_models.plain(tmp_path / "model.gguf"),
        tiny_models.adapter(tmp_path / "adapter.gguf", "red"),
        tiny_models.plain(tmp_path / "draft.gguf", seed="other"),
    )
    with opened(files[0]) as model, opened(files[1]) as adapter, opened(files[2]) as draft:
        always = (AdapterSource("red", adapter, always=True),)
        compare_fresh(Sources(model, always, draft=draft), choices)


@pytest.mark.slow
def test_the_same_from_weights_as_they_are(sample_source: ModelSource) -> None:
    compare_fresh(Sources(sample_source), 2, repack=False)


@contextmanager
def opened(path: Path) -> Iterator[ModelSource]:
    with path.open("rb") as file:
        yield ModelSource(file.fileno(), 0, path.stat().st_size)


def compare_fresh(sources: Sources, choices: int, **how: Any) -> None:
    """A request that reads all of its prompt is answered alike, with others before it or none."""
    chance = random.Random(choices)  # noqa: S311
    # It repeats itself, so that what follows would be guessed.
    text = "".join(chance.choices(tiny_models.CHARACTERS[:6], k=90)) * 2
    fresh = Request(
        text=text,
        sampling=Sampling(temperature=0),
        max_tokens=30,
        choices=choices,
        logprobs=1,
        fresh=True,
    )
    settings = EngineSettings(parallel=4, context=1024, **how)
    with closing(Engine(sources, settings)) as engine:
        engine.wait_ready(60)
        wanted = odds(list(engine.answer(fresh)))
        assert len(wanted) > 10
        for _ in range(10):
            for _ in range(chance.randint(0, 3)):
                other = Request(
                    text=text[: chance.randint(1, 180)],
                    sampling=Sampling(seed=chance.randint(0, 99)),
                    max_tokens=chance.choice((1, 20, 60)),
                    choices=chance.choice((1, 3)),
                )
                finished(list(engine.answer(other)))
            events = list(engine.answer(fresh))
            assert odds(events) == wanted
            assert finished(events).usage.cached_tokens == 0
