"""What is measured, and the values that came of it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Measure:
    """A quantity."""

    name: str
    unit: str
    higher_is_better: bool = False


@dataclass(frozen=True)
class Spread:
    """Several values of one quantity."""

    median: float
    low: float
    """A quarter of the values lies below."""
    high: float
    """A quarter lies above."""
    count: int


@dataclass
class Results:
    """Values by measure and program; value N of each program was measured in round N."""

    values: dict[Measure, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, measure: Measure, program: str, value: float) -> None:
        """Note a value down."""
        self.values.setdefault(measure, {}).setdefault(program, []).append(value)

    def spread(self, measure: Measure, program: str) -> Spread:
        """All values of a program."""
        return spread(self.values[measure][program])

    def ratio(self, measure: Measure, program: str, to: str) -> Spread | None:
        """A program's values divided by those of another in the same rounds: what disturbs
        the machine for a while disturbs both. None where the other has nothing, or 0."""
        programs = self.values[measure]
        ours, theirs = programs.get(program), programs.get(to)
        if not ours or not theirs or 0 in theirs:
            return None
        return spread([a / b for a, b in zip(ours, theirs, strict=False)])


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles."""
    if len(values) < 2:
        return Spread(values[0], values[0], values[0], len(values))
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(middle, low, high, len(values))
