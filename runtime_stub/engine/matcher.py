"""Follows a text through a grammar as llama.cpp does, and counts the readings it keeps.

llama.cpp keeps every reading of the text so far as a stack. A grammar can be such that their
number doubles with each character; nothing in llama.cpp bounds it, and it can't be asked.
"""

from __future__ import annotations

import random
import weakref
from collections.abc import Iterable

from runtime_stub.engine.grammar_parts import Element, Grammar, Terminal


class _Frame:
    """An unfinished sequence, and what to go on with after it. Equal frames are identical."""

    __slots__ = ("__weakref__", "index", "parent", "sequence")

    def __init__(self, sequence: tuple[Element, ...], index: int, parent: _Frame | None) -> None:
        self.sequence = sequence
        self.index = index
        self.parent = parent


MOST_READINGS = 2000
"""More than these cost llama.cpp seconds for each token."""


class Matcher:
    """The readings of a text in `grammar`. It knows characters only, no token references."""

    def __init__(self, grammar: Grammar, start: int | None = None) -> None:
        """At the beginning of a text of rule `start`, or else of the root."""
        self._grammar = grammar
        # A frame keeps its parent alive, so the identities in a key are not used anew.
        self._frames: weakref.WeakValueDictionary[tuple[int, int, int], _Frame]
        self._frames = weakref.WeakValueDictionary()
        starts = grammar.rules[grammar.root if start is None else start].alternatives
        self._readings = self._expand(self._frame(s, 0, None) for s in starts)

    @property
    def readings(self) -> int:
        """How many readings of the text are left. With none, the text does not fit."""
        return len(self._readings)

    @property
    def complete(self) -> bool:
        """Whether the text may end here."""
        return None in self._readings

    def accept(self, text: str, most: int = 10_000) -> bool:
        """Go on with `text`. False if it does not fit, or has more than `most` readings."""
        for character in text:
            code = ord(character)
            following = []
            for reading in self._readings:
                if reading is None:
                    continue
                if _takes(reading, code):
                    following.append(self._after(reading))
            self._readings = self._expand(following)
            if not 0 < len(self._readings) <= most:
                return False
        return True

    def paths(self, length: int, most: int | None) -> tuple[int | None, int]:
        """How many ways lead through the most ambiguous text of at most `length` characters.

        Whoever does not notice that ways meet, as llama.cpp does not when it tries a token,
        goes all of them. The text is found one character at a time, which is a good guess.
        Returns the number, None if it is above `most` or the readings on the way are too
        many, and how many steps it took.
        """
        ways = dict.fromkeys(self._readings, 1)
        choose = random.Random(length)  # noqa: S311  (the same at each call)
        steps = 0
        for _ in range(length):
            code = _favourite(ways, choose)
            if code is None:
                break
            following: dict[_Frame | None, int] = {}
            for reading, count in ways.items():
                steps += 1
                if reading is not None and _takes(reading, code):
                    for other in self._expand([self._after(reading)]):
                        following[other] = following.get(other, 0) + count
            ways = following
            if len(ways) > MOST_READINGS or (most is not None and sum(ways.values()) > most):
                return None, steps
        return sum(ways.values()), steps

    def _after(self, frame: _Frame) -> _Frame | None:
        return self._frame(frame.sequence, frame.index + 1, frame.parent)

    def _frame(
        self, sequence: tuple[Element, ...], index: int, parent: _Frame | None
    ) -> _Frame | None:
        if index == len(sequence):
            return parent
        key = (id(sequence), index, id(parent))
        frame = self._frames.get(key)
        if frame is None:
            frame = self._frames[key] = _Frame(sequence, index, parent)
        return frame

    def _expand(self, frames: Iterable[_Frame | None]) -> set[_Frame | None]:
        """The readings that `frames` lead to, each before a character or at the end."""
        waiting = list(frames)
        seen = set(waiting)
        found: set[_Frame | None] = set()
        while waiting:
            frame = waiting.pop()
            element = None if frame is None else frame.sequence[frame.index]
            if frame is None or not isinstance(element, int):
                found.add(frame)
                continue
            rest = self._after(frame)
            for sequence in self._grammar.rules[element].alternatives:
                following = self._frame(sequence, 0, rest)
                if following not in seen:
                    seen.add(following)
                    waiting.append(following)
        return found


def _takes(frame: _Frame, code: int) -> bool:
    element = frame.sequence[frame.index]
    return isinstance(element, Terminal) and any(
        low <= code <= high for low, high in element.matched
    )


def _favourite(ways: dict[_Frame | None, int], choose: random.Random) -> int | None:
    """A character that as many of the ways as possible can go on with."""
    changes: dict[int, int] = {}
    for frame, count in ways.items():
        element = None if frame is None else frame.sequence[frame.index]
        if isinstance(element, Terminal):
            for low, high in element.matched:
                changes[low] = changes.get(low, 0) + count
                changes[high + 1] = changes.get(high + 1, 0) - count
    best: list[int] = []
    most = current = 0
    for code in sorted(changes):
        current += changes[code]
        if current > most:
            best, most = [], current
        if current == most > 0 and changes[code]:
            best.append(code)
    return choose.choice(best) if best else None
