"""Whether one value of a setting is clearly better than another.

It is measured in turn with what holds so far, A B B A, so that whatever else the machine does hits
both; of several, only the one that looks best at first sight is. It is chosen if it wins clearly:
the median of the pairs by more than their noise and by at least ENOUGH, and no pair (of eight: one)
lost.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from runtime_stub.engine.profile import Trial

ENOUGH = 1.05
_HOPELESS = 1.02
"""What is not better than this by its second pair is not looked at any longer."""
_LEAST, _MOST, _FEW_PAIRS = 6, 8, 3
"""Pairs."""
_NOT_WORSE = 0.97


@dataclass(frozen=True)
class Task:
    """What is measured with several values of a setting."""

    setting: str
    name: str
    tokens: int
    """How many one run of it computes."""
    run: Callable[[int], float]
    """With a value; the seconds it takes."""
    also: Callable[[int], float] | None = None
    """What must not become slower."""


class Comparison:
    """The trials of one measurement."""

    def __init__(self, started: float, seconds: float, on_look: Callable[[str], None]) -> None:
        """It has so many `seconds` since it was `started`. `on_look` is told what is tried."""
        self._started = started
        self._seconds = seconds
        self._end = started + seconds
        self._on_look = on_look
        self.trials: list[Trial] = []
        """What was measured so far."""

    def best(self, task: Task, values: Sequence[int], base: int, share: float) -> int:
        """The one of `values` that is clearly better than `base`, or `base`. New ones are
        looked at until `share` of the time is over."""
        until = self._started + share * self._seconds
        looks: dict[int, list[float]] = {}
        for value in values:
            self._on_look(f"{task.setting.replace('_', ' ')} {value}")
            if time.monotonic() > until:
                break
            task.run(value)  # the first time, threads are made
            looks[value] = self._pair(task.run, base, value, 0)
        # Only the most promising is worth more of the time.
        order = sorted(looks, key=lambda value: -looks[value][0])
        for rank, value in enumerate(order):
            if self._confirm(task, value, base, looks[value], thoroughly=rank == 0):
                return value
        return base

    def _confirm(
        self, task: Task, value: int, base: int, look: list[float], *, thoroughly: bool
    ) -> bool:
        """Measure pairs until it is clear whether `value` is better; note the trial."""
        ratios, seconds = [look[0]], [look[1]]
        if thoroughly and look[0] > _HOPELESS:
            ratios, seconds = self._pairs(task.run, base, value)
        chosen, note = wins(ratios), ""
        if chosen and task.also is not None:
            others, _ = self._pairs(task.also, base, value, few=True)
            if not others or statistics.median(others) < _NOT_WORSE:
                chosen, note = False, "slower at something else"
        if ratios:
            speed = task.tokens / statistics.median(seconds)
            gain = statistics.median(ratios)
            self.trials.append(
                Trial(task.setting, value, task.name, speed, gain, len(ratios), chosen, note)
            )
        return chosen

    def _pairs(
        self, run: Callable[[int], float], base: int, value: int, *, few: bool = False
    ) -> tuple[list[float], list[float]]:
        """How many times as fast `value` was in each pair, and the seconds it took."""
        ratios: list[float] = []
        seconds: list[float] = []
        longest = 0.0
        for number in range(_FEW_PAIRS if few else _MOST):
            started = time.monotonic()
            if started + longest > self._end:
                break
            ratio, second = self._pair(run, base, value, number)
            ratios.append(ratio)
            seconds.append(second)
            longest = max(longest, time.monotonic() - started)
            hopeless = number > 0 and statistics.median(ratios) < _HOPELESS
            if not few and (hopeless or wins(ratios)):
                break
        return ratios, seconds

    def _pair(self, run: Callable[[int], float], base: int, value: int, number: int) -> list[float]:
        """How many times as fast `value` was, and the seconds it took."""
        if number % 2:
            second, first = run(value), run(base)
        else:
            first, second = run(base), run(value)
        return [first / second, second]


def wins(ratios: list[float]) -> bool:
    """Whether pairs say that one is better than the other, by more than their noise."""
    count = len(ratios)
    if count < _LEAST:
        return False
    median = statistics.median(ratios)
    spread = 1.4826 * statistics.median(abs(ratio - median) for ratio in ratios)
    lost = sum(ratio <= 1 for ratio in ratios)
    allowed = 1 if count >= _MOST else 0
    return median >= ENOUGH and median - 3 * spread / math.sqrt(count) > 1 and lost <= allowed
