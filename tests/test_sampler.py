from __future__ import annotations

import pytest
from engine_fixtures import ask, sample_engine, sample_model, sample_source, text_of

from runtime_stub.engine.engine import Engine
from runtime_stub.engine.messages import Finished, Sampling

__all__ = ["sample_engine", "sample_model", "sample_source"]

QUESTION = "Tell me a story about a dog."


def answer(engine: Engine, sampling: Sampling, max_tokens: int = 12) -> str:
    events = list(engine.answer(ask(QUESTION, sampling=sampling, max_tokens=max_tokens)))
    assert isinstance(events[-1], Finished), events
    return text_of(events)


@pytest.fixture(scope="module")
def greedy(sample_engine: Engine) -> str:
    return answer(sample_engine, Sampling(temperature=0))


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=0, seed=1),
        Sampling(temperature=1e-40),
        Sampling(temperature=2, top_k=1),
        Sampling(temperature=2, top_p=0.0),
        Sampling(temperature=2, min_p=1.0, top_k=0),
    ],
    ids=str,
)
def test_most_likely_tokens(sample_engine: Engine, greedy: str, sampling: Sampling) -> None:
    assert answer(sample_engine, sampling) == greedy


def test_seed(sample_engine: Engine) -> None:
    hot = {"temperature": 1.5, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    texts = [answer(sample_engine, Sampling(seed=seed, **hot)) for seed in (7, 7, 8)]  # type: ignore[arg-type]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_without_a_seed_answers_differ(sample_engine: Engine) -> None:
    hot = Sampling(temperature=2, top_k=0, top_p=1.0, min_p=0.0)
    assert answer(sample_engine, hot) != answer(sample_engine, hot)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=0, repeat_penalty=1.5),
        Sampling(temperature=0, frequency_penalty=2.0),
        Sampling(temperature=0, presence_penalty=10.0),
        Sampling(temperature=0, repeat_penalty=0.0),
    ],
    ids=str,
)
def test_penalties_change_the_answer(
    sample_engine: Engine, greedy: str, sampling: Sampling
) -> None:
    assert answer(sample_engine, sampling) != greedy


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=10, top_k=1_000_000, top_p=1, min_p=0),
        Sampling(temperature=10, repeat_penalty=10, frequency_penalty=-10, presence_penalty=-10),
        Sampling(repeat_penalty=1.1, repeat_last_n=0),
        Sampling(repeat_penalty=1.1, repeat_last_n=1_000_000),
        Sampling(seed=2**32 - 1),
    ],
    ids=str,
)
def test_bounds_of_the_settings(sample_engine: Engine, sampling: Sampling) -> None:
    answer(sample_engine, sampling, max_tokens=3)
