"""A small model guesses for another: nothing changes but the time, and it knows when to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import cast

import pytest
import tiny_models
from test_drafts import ALWAYS_GOES_ON, PROMPT, REQUESTS, said
from test_warm import source

from runtime_stub.engine import draft_model, guessing
from runtime_stub.engine.draft_model import DraftModel
from runtime_stub.engine.drafts import Chance, Drafts
from runtime_stub.engine.engine import Engine
from runtime_stub.engine.guessing import Guessing, Wish
from runtime_stub.engine.messages import EngineSettings, Finished, Request, Sampling, Sources
from runtime_stub.engine.pace import Pace
from runtime_stub.engine.sampler import Sampler
from runtime_stub.engine.slots import Slot
from runtime_stub.errors import EngineError

ORDER = ("long", *REQUESTS, *reversed(REQUESTS))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.plain(tmp_path_factory.mktemp("drafts") / "model.gguf")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the same vocabulary; what it guesses is mostly wrong."""
    return tiny_models.plain(tmp_path_factory.mktemp("drafts") / "other.gguf", seed="other")


@contextmanager
def running(model: Path, draft: Path | None, *, drafts: bool = True) -> Iterator[Engine]:
    with ExitStack() as stack:
        engine = Engine(
            Sources(source(stack, model), draft=None if draft is None else source(stack, draft)),
            EngineSettings(512, 4, threads=1, batch=64, drafts=drafts),
        )
        stack.callback(engine.close)
        engine.wait_ready(60)
        yield engine


@pytest.fixture
def outcomes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Of every guess, with the model the only one that makes any: its length, and how much of it
    was right. As many are made as possible."""
    found: list[tuple[int, int]] = []
    monkeypatch.setattr(guessing, "worthwhile", lambda *given: max(0, min(8, given[-1])))
    monkeypatch.setattr(Drafts, "guess", lambda _self, _most: [])
    learn = Chance.learn

    def note(self: Chance, guessed: int, right: int) -> None:
        found.append((guessed, right))
        learn(self, guessed, right)

    monkeypatch.setattr(Chance, "learn", note)
    # It is to choose among the same letters as the requests.
    monkeypatch.setattr(draft_model, "make_sampler", lambda model: Sampler(ALWAYS_GOES_ON, model))
    return found


@pytest.fixture(scope="module")
def expected(model: Path) -> list[object]:
    """What is said to ORDER; where in the context things lie decides about last bits."""
    with running(model, None, drafts=False) as engine:
        return [said(list(engine.answer(REQUESTS[name]))) for name in ORDER]


def shares(outcomes: list[tuple[int, int]]) -> float:
    """How much of what was guessed was right."""
    return sum(right for _, right in outcomes) / sum(guessed for guessed, _ in outcomes)


class TestNothingChanges:
    def test_with_a_draft_that_is_the_model_itself(
        self, model: Path, expected: list[object], outcomes: list[tuple[int, int]]
    ) -> None:
        with running(model, model) as engine:
            assert said(list(engine.answer(REQUESTS["long"]))) == expected[0]
            assert shares(outcomes) > 0.95
            assert len(outcomes) < 120 / 6  # steps, for 120 tokens
        with running(model, model) as engine:
            assert [said(list(engine.answer(REQUESTS[name]))) for name in ORDER] == expected

    def test_with_one_that_is_mostly_wrong(
        self, model: Path, other: Path, expected: list[object], outcomes: list[tuple[int, int]]
    ) -> None:
        with running(model, other) as engine:
            assert [said(list(engine.answer(REQUESTS[name]))) for name in ORDER] == expected
        assert outcomes
        assert shares(outcomes) < 0.6

    @pytest.mark.parametrize("same", [True, False])
    def test_with_a_seed(
        self, same: bool, model: Path, other: Path, outcomes: list[tuple[int, int]]
    ) -> None:
        """The same choices, alone in an engine that has read nothing before."""
        for seed in range(4):
            sampling = Sampling(seed=seed, logit_bias=ALWAYS_GOES_ON.logit_bias)
            request = Request(text=PROMPT, max_tokens=60, sampling=sampling)
            with running(model, None, drafts=False) as engine:
                wanted = said(list(engine.answer(request)))
            with running(model, model if same else other) as engine:
                assert said(list(engine.answer(request))) == wanted, seed
        assert outcomes

    @pytest.mark.parametrize("same", [True, False])
    def test_with_several_at_once(
        self,
        same: bool,
        model: Path,
        other: Path,
        expected: list[object],
        outcomes: list[tuple[int, int]],
    ) -> None:
        alone = dict(zip(ORDER, expected, strict=True))
        names = ["long", "probabilities", "penalties", "grammar", "one token"]
        with running(model, model if same else other) as engine:
            for _ in range(2):
                answers = {name: engine.answer(REQUESTS[name]) for name in names}
                firsts = {name: next(answer) for name, answer in answers.items()}
                for name, answer in answers.items():
                    assert said([firsts[name], *answer]) == alone[name], name
        assert outcomes

    def test_with_texts_longer_than_it_sees(
        self, model: Path, outcomes: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(draft_model, "ROOM", 96)
        monkeypatch.setattr(draft_model, "_TAIL", 24)
        monkeypatch.setattr(draft_model, "_FIRST_TAIL", 20)
        request = Request(text=PROMPT * 5, max_tokens=200, sampling=ALWAYS_GOES_ON)
        with running(model, None, drafts=False) as engine:
            wanted = said(list(engine.answer(request)))
        with running(model, model) as engine:
            assert said(list(engine.answer(request))) == wanted
        assert outcomes


def test_somebody_leaves(
    model: Path, expected: list[object], outcomes: list[tuple[int, int]]
) -> None:
    with running(model, model) as engine:
        for taken in (1, 5, 20):
            events = engine.answer(Request(text=PROMPT, sampling=ALWAYS_GOES_ON))
            for _ in range(taken):
                next(events)
            events.close()  # type: ignore[attr-defined]
        assert said(list(engine.answer(REQUESTS["long"]))) == expected[0]


def test_the_text_itself_is_asked_first(
    model: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guessing, "worthwhile", lambda *given: max(0, min(8, given[-1])))
    asked: list[int] = []
    guess = DraftModel.guess

    def note(self: DraftModel, wanted: dict, patience: float) -> dict:  # type: ignore[type-arg]
        asked.extend(wanted)
        return guess(self, wanted, patience)

    monkeypatch.setattr(DraftModel, "guess", note)
    with running(model, other) as engine:
        list(engine.answer(Request(text=PROMPT, max_tokens=60, sampling=ALWAYS_GOES_ON)))
        seldom = len(asked)
        monkeypatch.setattr(Drafts, "guess", lambda _self, _most: [])
        list(engine.answer(Request(text=PROMPT, max_tokens=60, sampling=ALWAYS_GOES_ON)))
    assert 0 < seldom < len(asked) - seldom


class TestVocabulary:
    def test_another_one(self, model: Path, tmp_path: Path) -> None:
        strange = tiny_models.plain(
            tmp_path / "strange.gguf", characters=tiny_models.CHARACTERS[::-1]
        )
        with pytest.raises(EngineError, match="knows other tokens"), running(model, strange):
            pass

    def test_it_does_not_matter_where_nobody_guesses(self, model: Path, tmp_path: Path) -> None:
        strange = tiny_models.plain(
            tmp_path / "strange.gguf", characters=tiny_models.CHARACTERS[::-1]
        )
        with running(model, strange, drafts=False) as engine:
            assert engine.facts is not None
            assert engine.facts.draft == ""


@pytest.mark.parametrize("kind", [tiny_models.sliding, tiny_models.recurrent, tiny_models.hybrid])
class TestModelsThatForget:
    """Nothing that is wrong could be taken back."""

    def test_as_draft(
        self,
        kind: Callable[[Path], Path],
        model: Path,
        tmp_path: Path,
        expected: list[object],
        outcomes: list[tuple[int, int]],
    ) -> None:
        with running(model, kind(tmp_path / "draft.gguf")) as engine:
            assert said(list(engine.answer(REQUESTS["long"]))) == expected[0]
        assert outcomes == []

    def test_as_the_main_model(
        self, kind: Callable[[Path], Path], model: Path, tmp_path: Path
    ) -> None:
        with running(kind(tmp_path / "main.gguf"), model) as engine:
            assert isinstance([*engine.answer(REQUESTS["one token"])][-1], Finished)
            assert engine.facts is not None
            assert engine.facts.draft == ""


def test_facts(model: Path, other: Path) -> None:
    with running(model, other) as engine:
        assert engine.facts is not None
        assert "llama" in engine.facts.draft


def test_failing_it_is_left_out(
    model: Path,
    expected: list[object],
    outcomes: list[tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[float] = []

    def run(_self: DraftModel, _fed: object) -> float:
        calls.append(time.monotonic())
        raise EngineError("it failed")

    monkeypatch.setattr(DraftModel, "_run", run)
    with running(model, model) as engine:
        for _ in range(2):
            assert said(list(engine.answer(REQUESTS["long"]))) == expected[0]
    assert len(calls) == 1


class FakeDraft:
    """Takes a known time, and is right as often as is wished."""

    useful = True

    def __init__(self, cost: float | None) -> None:
        self.cost = cost
        self.asked: list[int] = []

    def new_chance(self) -> Chance:
        return Chance(0.7, draft_model._RECOVERY)

    def rest(self) -> bool:
        return False

    def guess(self, wanted: dict[int, tuple[list[int], int]], _: float) -> dict[int, list[int]]:
        self.asked += [count for _, count in wanted.values()]
        return {sequence: [1] * count for sequence, (_, count) in wanted.items()}

    def learn(self, _: Chance) -> None:
        pass


class TestWhetherItPays:
    def steps(self, cost: float, *, right: bool, count: int = 300) -> FakeDraft:
        """The draft after so many steps of a text that never repeats itself."""
        fake = FakeDraft(cost)
        pace = Pace()
        pace.note(1, 0, 1.0)
        pace.note(0, 100, 10.0)
        made = Guessing(pace, cast("DraftModel", fake))
        slot = Slot(0)
        slot.drafts = Drafts([])
        slot.model_chance = fake.new_chance()
        for _ in range(count):
            slot.guess = []
            made.guess([Wish(slot, 8)], 0)
            if slot.guess:
                made.learn(slot, len(slot.guess), len(slot.guess) if right else 0)
        return fake

    def test_where_it_is_right(self) -> None:
        assert len(self.steps(0.1, right=True).asked) == 300
        assert self.steps(0.1, right=True).asked[-1] == 8

    def test_where_it_is_wrong_it_is_hardly_asked_any_more(self) -> None:
        asked = self.steps(0.1, right=False).asked
        assert 0 < len(asked) < 20
        assert sum(asked) * 0.2 < 0.04 * 300, "steps that it has cost, of 300"

    def test_where_it_is_as_slow_as_the_model_itself(self) -> None:
        assert self.steps(1.0, right=True).asked == []

    def test_unknown_cost_is_found_out(self) -> None:
        fake = FakeDraft(None)
        made = Guessing(Pace(), cast("DraftModel", fake))
        slot = Slot(0)
        slot.drafts, slot.model_chance = Drafts([]), fake.new_chance()
        made.guess([Wish(slot, 8)], 0)
        assert fake.asked == [4]


def test_memory_is_counted(model: Path, other: Path) -> None:
    """The context leaves room for what guesses."""
    made: list[int] = []
    with running(model, other) as engine:
        loaded = engine._standing.loaded
        assert loaded is not None
        draft = loaded.draft
        assert draft is not None
        made.append(draft.memory)
    assert made[0] > other.stat().st_size // 2
