from __future__ import annotations

import math

import pytest
from engine_fixtures import ask, sample_engine, sample_model, sample_source, text_of

from runtime_stub.engine.engine import Engine
from runtime_stub.engine.messages import (
    Failed,
    Finished,
    Request,
    Sampling,
    Text,
    TokenizeRequest,
    Tokens,
)

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


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(seed=1, typical_p=0.5),
        Sampling(seed=1, top_n_sigma=1.0),
        Sampling(seed=1, xtc_probability=1.0, xtc_threshold=0.05),
        Sampling(seed=1, dry_multiplier=2.0, temperature=0),
        Sampling(seed=1, mirostat=1),
        Sampling(seed=1, mirostat=2, mirostat_tau=3.0),
    ],
    ids=str,
)
def test_every_way_of_sampling_answers_and_repeats(
    sample_engine: Engine, sampling: Sampling
) -> None:
    first = answer(sample_engine, sampling)
    assert first
    assert answer(sample_engine, sampling) == first


SENTENCE = "The quick brown fox jumps over the lazy dog and runs into the wood. "
REPEATS = SENTENCE * 5 + "The quick brown fox"


@pytest.mark.parametrize("last_n", [-1, 1_000_000, 40])
def test_dry_keeps_from_repeating_what_the_prompt_repeats(
    sample_engine: Engine, last_n: int
) -> None:
    dry = Sampling(temperature=0, dry_multiplier=5.0, dry_last_n=last_n)
    assert next_words(sample_engine, dry) not in SENTENCE


@pytest.mark.parametrize(
    "sampling", [Sampling(temperature=0, dry_last_n=0, dry_multiplier=5.0), Sampling(temperature=0)]
)
def test_dry_that_looks_nowhere_changes_nothing(sample_engine: Engine, sampling: Sampling) -> None:
    assert next_words(sample_engine, sampling) in SENTENCE


def test_penalties_look_back_as_far_as_is_asked(sample_engine: Engine) -> None:
    """The word that the model would say stands in the prompt's beginning alone."""
    penalised = [
        next_words(
            sample_engine, Sampling(temperature=0, presence_penalty=100.0, repeat_last_n=last_n)
        )
        for last_n in (-1, 1_000_000, 0)
    ]
    assert penalised[0] == penalised[1] != penalised[2]


def next_words(engine: Engine, sampling: Sampling) -> str:
    request = Request(text=REPEATS, sampling=sampling, max_tokens=6)
    events = list(engine.answer(request))
    assert isinstance(events[-1], Finished), events
    return text_of(events)


def test_logit_bias(sample_engine: Engine) -> None:
    (token,) = tokens_of(sample_engine, "Paris")
    forced = Sampling(temperature=0, logit_bias=((token, 1000.0), (1 << 30, 5.0)))
    assert answer(sample_engine, forced, max_tokens=3) == "ParisParisParis"
    forbidden = Sampling(temperature=0, logit_bias=((token, -math.inf),))
    assert "Paris" not in answer(sample_engine, forbidden)


def tokens_of(engine: Engine, text: str) -> tuple[int, ...]:
    (event,) = engine.answer(TokenizeRequest(text=text))
    assert isinstance(event, Tokens)
    return event.tokens


def test_grammar(sample_engine: Engine) -> None:
    grammar = 'root ::= ("cat" | "dog") "s"? "!"'
    for seed in range(3):
        hot = Sampling(temperature=2, top_k=0, top_p=1.0, min_p=0.0, seed=seed)
        events = list(sample_engine.answer(ask(QUESTION, sampling=hot, grammar=grammar)))
        assert text_of(events) in ("cat!", "cats!", "dog!", "dogs!")
        assert isinstance(events[-1], Finished)
        assert events[-1].reason == "stop"


def test_grammar_that_ends_nowhere_fails_and_the_engine_lives(sample_engine: Engine) -> None:
    dead = 'root ::= "a" dead\ndead ::= [^\\x00-\\U0010FFFF]'
    events = list(sample_engine.answer(ask("?", sampling=Sampling(), grammar=dead)))
    assert isinstance(events[-1], Failed)
    assert events[-1].kind == "prompt"
    assert answer(sample_engine, Sampling(temperature=0))


def test_logprobs(sample_engine: Engine) -> None:
    request = ask(QUESTION, sampling=Sampling(temperature=0), max_tokens=4, logprobs=3)
    events = list(sample_engine.answer(request))
    rows = [row for event in events if isinstance(event, Text) for row in event.logprobs]
    assert len(rows) == 4
    assert b"".join(row.raw for row in rows).decode() == text_of(events)
    for row in rows:
        assert len(row.top) == 3
        assert row.top[0][2] == pytest.approx(row.logprob), "greedy takes the most probable"
        assert 0 < sum(math.exp(value) for _, _, value in row.top) <= 1.0001


def test_choices_differ_and_repeat(sample_engine: Engine) -> None:
    def texts() -> list[str]:
        hot = Sampling(temperature=2, top_k=0, top_p=1.0, min_p=0.0, seed=5)
        request = ask(QUESTION, sampling=hot, max_tokens=8, choices=2)
        found = ["", ""]
        for event in sample_engine.answer(request):
            if isinstance(event, Text):
                found[event.choice] += event.text
        return found

    first = texts()
    assert first[0] != first[1]
    assert texts() == first
