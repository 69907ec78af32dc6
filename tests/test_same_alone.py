"""A request that is alone gets the same answer, bit by bit, whatever was asked before."""

from __future__ import annotations

import random
from contextlib import closing

import pytest
from engine_fixtures import finished, sample_model, sample_source

from runtime_stub.engine.engine import Engine
from runtime_stub.engine.messages import (
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
