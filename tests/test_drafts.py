"""Guesses ahead: what they say, when they pay, and that they change nothing but the time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import tiny_models
from hypothesis import given
from hypothesis import strategies as st

from runtime_stub.engine import guessing
from runtime_stub.engine.drafts import GRAM, Chance, Drafts, worthwhile
from runtime_stub.engine.engine import Engine
from runtime_stub.engine.kv import KV_TYPES
from runtime_stub.engine.messages import (
    ChoiceEnd,
    EngineSettings,
    Event,
    Finished,
    ModelSource,
    Request,
    Sampling,
    Sources,
    Text,
)
from runtime_stub.engine.pace import Pace


class TestGuess:
    def test_as_it_went_on_before(self) -> None:
        drafts = Drafts([1, 2, 3, 4, 5, 1, 2, 3])
        assert drafts.guess(2) == [4, 5]
        assert drafts.guess(0) == []

    def test_the_latest_place_counts(self) -> None:
        assert Drafts([1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3]).guess(1) == [5]

    def test_round_in_circles(self) -> None:
        assert Drafts([7, 8, 7, 8, 7, 8]).guess(5) == [7, 8, 7, 8, 7]

    def test_nothing_like_it(self) -> None:
        assert Drafts([1, 2, 3, 4]).guess(3) == []
        assert Drafts([]).guess(3) == []

    @given(st.lists(st.integers(0, 3), max_size=60), st.integers(0, 60), st.integers(1, 8))
    def test_adding_is_as_knowing_from_the_start(
        self, tokens: list[int], cut: int, most: int
    ) -> None:
        grown = Drafts(tokens[:cut])
        for token in tokens[cut:]:
            grown.add(token)
        assert grown.guess(most) == Drafts(tokens).guess(most)

    @given(st.lists(st.integers(0, 2), min_size=GRAM, max_size=60), st.integers(1, 8))
    def test_what_is_guessed_has_followed(self, tokens: list[int], most: int) -> None:
        guess = Drafts(tokens).guess(most)
        if guess:
            wanted = [*tokens[-GRAM:], guess[0]]
            places = range(len(tokens) - GRAM)
            assert any(tokens[place : place + GRAM + 1] == wanted for place in places)


class TestChance:
    def test_learns(self) -> None:
        chance = Chance()
        for _ in range(30):
            chance.learn(4, 4)
        assert chance.value > 0.95
        for _ in range(30):
            chance.learn(4, 0)
        assert chance.value < 0.05

    def test_is_tried_again_after_a_while(self) -> None:
        chance = Chance()
        for _ in range(30):
            chance.learn(4, 0)
        for _ in range(100):
            chance.rest()
        assert 0.5 < chance.value < 0.8

    def test_rest_takes_nothing_away(self) -> None:
        chance = Chance(0.95)
        chance.rest()
        assert chance.value == 0.95


class TestWorthwhile:
    def test_unknown_costs(self) -> None:
        assert worthwhile(0.9, 0, None, 0.1, 8) == 0
        assert worthwhile(0.9, 0, 0.1, None, 8) == 0

    def test_free_guesses_are_taken(self) -> None:
        assert worthwhile(0.9, 0, 0.1, 0.0, 8) == 8

    def test_guesses_that_cost_a_step_each_are_not(self) -> None:
        assert worthwhile(0.99, 0, 0.1, 0.1, 8) == 0

    def test_likelier_ones_go_further(self) -> None:
        counts = [worthwhile(chance, 0, 0.1, 0.03, 16) for chance in (0.1, 0.5, 0.8, 0.95)]
        assert counts == sorted(counts)
        assert counts[0] == 0 < counts[-1]

    def test_others_are_not_held_up(self) -> None:
        alone, among = (worthwhile(0.6, others, 0.1, 0.03, 16) for others in (0, 7))
        assert among < alone


# In a running engine, with guesses wherever there is one.

# Few letters, so that the same three follow each other again and again; and letters between which
# the model is never undecided, so that the last bits of a computation do not matter.
ALWAYS_GOES_ON = Sampling(
    temperature=0,
    logit_bias=tuple(
        (token, float("-inf"))
        for token in range(tiny_models.END + 2)
        if token not in map(tiny_models.CHARACTERS.index, "oix")
    ),
)
PROMPT = "abcabcabcabdabcabcabcabd"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.plain(tmp_path_factory.mktemp("drafts") / "model.gguf", head=32)


@contextmanager
def running(model: Path, *, drafts: bool, kv: str = "f16") -> Iterator[Engine]:
    descriptor = os.open(model, os.O_RDONLY)
    sources = Sources(ModelSource(descriptor, 0, model.stat().st_size))
    engine = Engine(sources, EngineSettings(256, 4, threads=1, batch=64, drafts=drafts, kv=kv))
    try:
        engine.wait_ready(60)
        yield engine
    finally:
        engine.close()
        os.close(descriptor)


@pytest.fixture
def guessed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Has every guess made; how long each verified one was, and how much of it was right."""
    right: list[int] = []
    monkeypatch.setattr(guessing, "worthwhile", lambda *given: max(0, min(8, given[-1])))
    learn = Chance.learn

    def note(self: Chance, count: int, good: int) -> None:
        right.append(good)
        learn(self, count, good)

    monkeypatch.setattr(Chance, "learn", note)
    return right


REQUESTS: dict[str, Request] = {
    "long": Request(text=PROMPT, max_tokens=120, sampling=ALWAYS_GOES_ON),
    "to the end of the context": Request(text=PROMPT, sampling=ALWAYS_GOES_ON),
    "one token": Request(text=PROMPT, max_tokens=1, sampling=ALWAYS_GOES_ON),
    "probabilities": Request(text=PROMPT, max_tokens=60, sampling=ALWAYS_GOES_ON, logprobs=1),
    "choices": Request(text=PROMPT, max_tokens=60, sampling=ALWAYS_GOES_ON, choices=3),
    "grammar": Request(
        text=PROMPT, max_tokens=60, sampling=ALWAYS_GOES_ON, grammar='root ::= ("oi" | "x")+'
    ),
    "grammar that ends": Request(
        text=PROMPT, max_tokens=60, sampling=Sampling(temperature=0), grammar='root ::= "oixoix"'
    ),
    "penalties": Request(
        text=PROMPT,
        max_tokens=100,
        sampling=Sampling(temperature=0, repeat_penalty=1.02, logit_bias=ALWAYS_GOES_ON.logit_bias),
    ),
}


def said(events: Sequence[Event]) -> tuple[dict[int, str], dict[int, str], int]:
    """Texts and reasons by choice, and how many tokens were counted."""
    last = events[-1]
    assert isinstance(last, Finished), last
    texts: dict[int, str] = {}
    for event in events:
        if isinstance(event, Text):
            texts[event.choice] = texts.get(event.choice, "") + event.text
    reasons = {event.choice: event.reason for event in events if isinstance(event, ChoiceEnd)}
    return texts, reasons, last.usage.completion_tokens


@pytest.fixture(scope="module", params=KV_TYPES)
def kv(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def expected(model: Path, kv: str) -> dict[str, object]:
    with running(model, drafts=False, kv=kv) as engine:
        return {name: said(list(engine.answer(request))) for name, request in REQUESTS.items()}


def test_nothing_changes(
    model: Path, kv: str, expected: dict[str, object], guessed: list[int]
) -> None:
    with running(model, drafts=True, kv=kv) as engine:
        for name, request in REQUESTS.items():
            assert said(list(engine.answer(request))) == expected[name], name
        # One after the other in the same slots: what was guessed wrong has left nothing behind.
        for name, request in reversed(REQUESTS.items()):
            assert said(list(engine.answer(request))) == expected[name], name
    assert max(guessed) == 8
    assert min(guessed) == 0


def test_all_at_once(model: Path, kv: str, expected: dict[str, object], guessed: list[int]) -> None:
    names = ["long", "probabilities", "penalties", "one token"]
    with running(model, drafts=True, kv=kv) as engine:
        answers = {name: engine.answer(REQUESTS[name]) for name in names}
        firsts = {name: next(answer) for name, answer in answers.items()}
        for name, answer in answers.items():
            assert said([firsts[name], *answer]) == expected[name], name
    assert max(guessed) > 0


def test_stop_within_a_guess(model: Path, guessed: list[int]) -> None:
    with running(model, drafts=False) as engine:
        whole = said(list(engine.answer(REQUESTS["long"])))[0][0]
    stop = whole[60:68]
    request = Request(text=PROMPT, max_tokens=120, sampling=ALWAYS_GOES_ON, stop=(stop,))
    with running(model, drafts=True) as engine:
        found, reasons, _ = said(list(engine.answer(request)))
    assert found[0] == whole[: whole.index(stop)]
    assert reasons == {0: "stop"}


def test_turned_off(model: Path, guessed: list[int]) -> None:
    with running(model, drafts=False) as engine:
        list(engine.answer(REQUESTS["long"]))
    assert guessed == []


def test_models_that_forget_are_left_alone(tmp_path: Path, guessed: list[int]) -> None:
    for kind in (tiny_models.sliding, tiny_models.recurrent, tiny_models.hybrid):
        with running(kind(tmp_path / "model.gguf"), drafts=True) as engine:
            list(engine.answer(REQUESTS["long"]))
    assert guessed == []


def test_no_guesses_while_a_prompt_is_read(
    model: Path, guessed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for a first token is not to wait for what may be wrong."""
    steps: list[tuple[int, int]] = []
    note = Pace.note

    def watch(self: Pace, generated: int, read: int, seconds: float, count: int = 0) -> None:
        if generated:
            steps.append((read, count))
        note(self, generated, read, seconds, count)

    monkeypatch.setattr(Pace, "note", watch)
    with running(model, drafts=True) as engine:
        answer = engine.answer(REQUESTS["to the end of the context"])
        next(answer)
        list(engine.answer(Request(text="#" + PROMPT * 2, max_tokens=1, sampling=ALWAYS_GOES_ON)))
        list(answer)
    assert any(read for read, _ in steps)
    assert any(count for _, count in steps)
    assert not any(read and count for read, count in steps)
