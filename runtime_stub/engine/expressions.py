"""Regular expressions as trees."""

from __future__ import annotations

from dataclasses import dataclass

from runtime_stub.engine.grammar_parts import Ranges, union

CHARACTERS: Ranges = ((0, 0xD7FF), (0xE000, 0x10FFFF))
"""All that a string can hold."""


@dataclass(frozen=True)
class Characters:
    """One character out of a set."""

    ranges: Ranges


@dataclass(frozen=True)
class Concatenation:
    """Its parts, one after the other."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Choice:
    """Any of its parts; without parts, nothing at all."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Repeat:
    """Its part, `least` to `most` times, or without end."""

    part: Node
    least: int
    most: int | None


Node = Characters | Concatenation | Choice | Repeat
EMPTY = Concatenation(())


def text(literal: str) -> Node:
    """Exactly `literal`."""
    return Concatenation(tuple(Characters(((ord(c), ord(c)),)) for c in literal))


def one_of(*ranges: tuple[str, str]) -> Node:
    """One character from any of `ranges`, such as ("a", "z")."""
    return Characters(union([(ord(low), ord(high)) for low, high in ranges]))


def sequence(*parts: Node) -> Node:
    """`parts`, one after the other."""
    return Concatenation(parts)


def either(*parts: Node) -> Node:
    """Any of `parts`."""
    return Choice(parts)
