from __future__ import annotations

import pytest

from runtime_stub.engine.comparison import Comparison, Task, wins


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ([1.2] * 6, True),
        ([1.2] * 5, False),
        ([1.04] * 8, False),
        ([1.06] * 8, True),
        ([1.2, 1.2, 1.2, 1.2, 1.2, 0.99], False),
        ([1.2, 1.2, 1.2, 1.2, 1.2, 1.2, 1.2, 0.99], True),
        ([1.2, 1.2, 1.2, 1.2, 1.2, 1.2, 0.9, 0.99], False),
        ([1.01, 1.02, 1.01, 1.6, 1.9, 1.02, 1.8, 1.01], False),
        ([], False),
    ],
)
def test_wins(ratios: list[float], *, expected: bool) -> None:
    assert wins(ratios) == expected


class Clock:
    """Settings with what a run takes with each, in seconds of a time of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float]) -> None:
        self.now = 0.0
        self.seconds = seconds
        self.runs: list[int] = []
        monkeypatch.setattr("runtime_stub.engine.comparison.time.monotonic", lambda: self.now)

    def run(self, value: int) -> float:
        self.runs.append(value)
        self.now += self.seconds[value]
        return self.seconds[value]


def test_the_best_is_found_and_the_others_only_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, {1: 0.04, 2: 0.02, 3: 0.03, 4: 0.04})
    looked: list[str] = []
    made = Comparison(0.0, 4.0, looked.append)
    task = Task("prompt_threads", "read", 10, clock.run)
    assert made.best(task, [2, 3], 4, 0.5) == 2
    assert looked == ["prompt threads 2", "prompt threads 3"]
    (trial,) = made.trials
    assert (trial.value, trial.pairs, trial.chosen) == (2, 6, True)
    assert (trial.gain, trial.speed) == pytest.approx((2.0, 500.0))
    assert clock.runs.count(3) == 2


def test_none_is_looked_at_when_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, {1: 1.0, 2: 1.0})
    clock.now = 2.5
    made = Comparison(0.0, 4.0, lambda _: None)
    assert made.best(Task("threads", "generate", 1, clock.run), [2], 1, 0.5) == 1
    assert clock.runs == []
    assert made.trials == []


def test_pairs_begin_with_either_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, {1: 0.02, 2: 0.01})
    Comparison(0.0, 4.0, lambda _: None).best(
        Task("threads", "generate", 1, clock.run), [2], 1, 0.5
    )
    assert clock.runs[3:] == [1, 2, 2, 1, 1, 2, 2, 1, 1, 2, 2, 1]
