"""What a grammar consists of, and sets of characters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runtime_stub.errors import PromptError

Ranges = tuple[tuple[int, int], ...]
"""A set of code points: ascending, both ends included, neither overlapping nor touching."""


@dataclass(frozen=True)
class Terminal:
    """One character out of a set."""

    matched: Ranges
    size: int
    """How many elements llama.cpp stores for it."""


@dataclass(frozen=True)
class Token:
    """One token of the vocabulary, or any but that."""

    reference: str
    negated: bool


Element = int | Terminal | Token
"""An int is the number of a rule."""


@dataclass(frozen=True)
class Rule:
    """A rule of the text, or one that llama.cpp makes for a group or a repetition in it."""

    name: str
    line: int
    column: int
    alternatives: tuple[tuple[Element, ...], ...]

    def error(self, what: str) -> PromptError:
        """The error that says `what` of this rule."""
        rule = f'rule "{self.name[:80]}", ' if self.name else ""
        return PromptError(
            f"the grammar can't be used: {what} ({rule}line {self.line}, column {self.column})"
        )


@dataclass(frozen=True)
class Grammar:
    rules: tuple[Rule, ...]
    root: int


def union(ranges: Sequence[tuple[int, int]]) -> Ranges:
    """The set of all code points in `ranges`, which may overlap."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def subtract(ranges: Ranges, taken: Sequence[tuple[int, int]]) -> Ranges:
    """`ranges` without the code points in `taken`, which may overlap."""
    left: list[tuple[int, int]] = []
    removed = union(taken)
    at = 0
    for low, high in ranges:
        start = low
        while at < len(removed) and removed[at][1] < start:
            at += 1
        index = at
        while index < len(removed) and removed[index][0] <= high:
            if removed[index][0] > start:
                left.append((start, removed[index][0] - 1))
            start = removed[index][1] + 1
            index += 1
        if start <= high:
            left.append((start, high))
    return tuple(left)
