"""Regular languages as GBNF rules in which the next character decides everything.

llama.cpp follows all readings of a text at once, and tries each on every token: for an
expression such as (a+)+ their number doubles with each character. So an expression is first
made deterministic, which leaves one reading whatever it looked like, and bounds its size.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from runtime_stub.engine.expressions import (
    CHARACTERS,
    Characters,
    Choice,
    Concatenation,
    Node,
)
from runtime_stub.engine.grammar import choice, quote, quote_class
from runtime_stub.engine.grammar_parts import Ranges, subtract, union
from runtime_stub.errors import PromptError

_Key = TypeVar("_Key", bound=Hashable)

MAX_STATES = 5000
"""Most states of an expression, before and after it is made deterministic."""
_ROUNDS = 24

_ESCAPES = {ord(c): e for c, e in zip('"\\\n\r\t\b\f', '"\\nrtbf', strict=True)}
_UNQUOTED = subtract(CHARACTERS, [(0, 0x1F), (0x22, 0x22), (0x5C, 0x5C)])


@dataclass
class State:
    """A state of a deterministic automaton; `edges` lead to indices of other states."""

    accepts: bool
    edges: list[tuple[Ranges, int]]


class Automaton:
    """A deterministic automaton without dead ends. It starts in state 0."""

    def __init__(self, states: list[State]) -> None:
        self.states = _merge_equal(_without_dead_ends(states))

    def bounded(self, least: int, most: int | None, spend: Callable[[int], object]) -> Automaton:
        """Only the texts of at least `least` and at most `most` characters."""
        highest = least if most is None else most

        def step(state: tuple[int, int]) -> tuple[bool, list[tuple[Ranges, tuple[int, int]]]]:
            inner, length = state
            spend(1 + len(self.states[inner].edges))
            following = length + 1 if most is not None else min(length + 1, least)
            edges = self.states[inner].edges if most is None or length < highest else []
            accepts = self.states[inner].accepts and length >= least
            return accepts, [(ranges, (target, following)) for ranges, target in edges]

        return Automaton(_explore((0, 0), step))

    def rules(
        self, add: Callable[[int, str], object], name: Callable[[int], str], *, quoted: bool
    ) -> None:
        """Hand each state's rule, named by `name`, to `add`.

        Quoted, the characters are those of a JSON string, and the rules match how they are
        written there, up to and with the closing quotation mark.
        """
        waiting, seen = [0], {0}
        while waiting:
            number = waiting.pop()
            alternatives = []
            for ranges, target in self.states[number].edges:
                prefix = ""
                following: int | None = target
                end = ""
                if (low := _single(ranges)) is not None:
                    prefix, following = self._run(low, target, quoted=quoted)
                elif not self.states[target].edges:
                    following, end = None, r' "\""' if quoted else ""
                for item in [quote(prefix)] if prefix else list(_items(ranges, quoted=quoted)):
                    alternatives.append(
                        item + end if following is None else f"{item} {name(following)}"
                    )
                if following is not None and following not in seen:
                    seen.add(following)
                    waiting.append(following)
            if self.states[number].accepts:
                alternatives.append(r'"\""' if quoted else '""')
            add(number, " | ".join(alternatives))

    def _run(self, code: int, target: int, *, quoted: bool) -> tuple[str, int | None]:
        """What must follow in one piece after `code`, and the state that comes then, if any."""
        written = _written(code, quoted=quoted)
        for _ in self.states:
            state = self.states[target]
            if not state.edges:
                return written + ('"' if quoted else ""), None
            if state.accepts or len(state.edges) > 1:
                break
            low = _single(state.edges[0][0])
            if low is None:
                break
            written += _written(low, quoted=quoted)
            target = state.edges[0][1]
        return written, target


def compile_node(node: Node, spend: Callable[[int], object]) -> Automaton:
    """The automaton of `node`. Raises PromptError if it gets too large or matches nothing.

    `spend` is told of each piece of work, and may put an end to it by an error of its own.
    """
    machine = _Machine()
    last = machine.state()
    first = machine.build(node, last)
    spend(len(machine.edges))

    def closed(states: Sequence[int]) -> frozenset[int]:
        found, waiting = set(states), list(states)
        while waiting:
            for other in machine.jumps[waiting.pop()]:
                if other not in found:
                    found.add(other)
                    waiting.append(other)
        spend(len(found))
        # A state with nothing but jumps makes no difference of its own.
        return frozenset(n for n in found if machine.edges[n] or n == last)

    def step(states: frozenset[int]) -> tuple[bool, list[tuple[Ranges, frozenset[int]]]]:
        edges = [edge for state in states for edge in machine.edges[state]]
        return last in states, [(r, closed(t)) for r, t in _split(edges)]

    return Automaton(_explore(closed([first]), step))


def all_but(words: Sequence[str]) -> Automaton:
    """Every text except `words`."""
    states = [State(True, [])]
    children: list[dict[int, int]] = [{}]
    for word in words:
        at = 0
        for character in word:
            following = children[at].get(ord(character))
            if following is None:
                following = children[at][ord(character)] = len(states)
                states.append(State(True, []))
                children.append({})
            at = following
        states[at].accepts = False
    free = len(states)
    for state, own in zip(states, children, strict=True):
        taken = [(code, code) for code in own]
        state.edges = [(((code, code),), target) for code, target in own.items()]
        state.edges.append((subtract(CHARACTERS, taken), free))
    states.append(State(True, [(CHARACTERS, free)]))
    return Automaton(states)


class _Machine:
    """A nondeterministic automaton under construction."""

    def __init__(self) -> None:
        self.edges: list[list[tuple[Ranges, int]]] = []
        self.jumps: list[list[int]] = []

    def state(self) -> int:
        self.edges.append([])
        self.jumps.append([])
        if len(self.edges) > MAX_STATES * 4:
            raise PromptError("the expression is too large")
        return len(self.edges) - 1

    def build(self, node: Node, last: int) -> int:
        """The state from which `node` leads to `last`."""
        first = self.state()
        if isinstance(node, Characters):
            if node.ranges:
                self.edges[first].append((node.ranges, last))
        elif isinstance(node, Concatenation):
            at = last
            for part in reversed(node.parts):
                at = self.build(part, at)
            self.jumps[first].append(at)
        elif isinstance(node, Choice):
            self.jumps[first] += [self.build(part, last) for part in node.parts]
        else:
            at = last
            if node.most is None:
                at = self.state()
                self.jumps[at] += [self.build(node.part, at), last]
            else:
                for _ in range(node.most - node.least):
                    inner = self.build(node.part, at)
                    at = self.state()
                    self.jumps[at] += [inner, last]
            for _ in range(node.least):
                at = self.build(node.part, at)
            self.jumps[first].append(at)
        return first


def _split(edges: Sequence[tuple[Ranges, int]]) -> Iterator[tuple[Ranges, list[int]]]:
    """The same edges with disjoint sets, each with all the targets it leads to."""
    events: dict[int, list[tuple[int, int]]] = {}
    for ranges, target in edges:
        for low, high in ranges:
            events.setdefault(low, []).append((target, 1))
            events.setdefault(high + 1, []).append((target, -1))
    active: dict[int, int] = {}
    found: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    places = sorted(events)
    for low, after in itertools.pairwise(places):
        for target, change in events[low]:
            active[target] = active.get(target, 0) + change
            if not active[target]:
                del active[target]
        if active:
            found.setdefault(tuple(sorted(active)), []).append((low, after - 1))
    for targets, spans in found.items():
        yield union(spans), list(targets)


def _explore(
    start: _Key, step: Callable[[_Key], tuple[bool, list[tuple[Ranges, _Key]]]]
) -> list[State]:
    """All states that can be reached from `start`, numbered from 0."""
    numbers = {start: 0}
    order = [start]
    states: list[State] = []
    for key in order:
        accepts, edges = step(key)
        for _, target in edges:
            if target not in numbers:
                numbers[target] = len(order)
                order.append(target)
                if len(order) > MAX_STATES:
                    raise PromptError("the expression is too complex")
        states.append(State(accepts, [(ranges, numbers[target]) for ranges, target in edges]))
    return states


def _without_dead_ends(states: list[State]) -> list[State]:
    back: list[list[int]] = [[] for _ in states]
    for number, state in enumerate(states):
        for _, target in state.edges:
            back[target].append(number)
    waiting = [number for number, state in enumerate(states) if state.accepts]
    alive = set(waiting)
    while waiting:
        for number in back[waiting.pop()]:
            if number not in alive:
                alive.add(number)
                waiting.append(number)
    if 0 not in alive:
        raise PromptError("nothing matches the expression")
    for state in states:
        state.edges = [edge for edge in state.edges if edge[1] in alive]
    return states


def _merge_equal(states: list[State]) -> list[State]:
    """Fewer states: those that look the same become one, as far as a few rounds get."""
    for _ in range(_ROUNDS):
        known: dict[object, int] = {}
        same: dict[int, int] = {}
        for number, state in enumerate(states):
            by_target: dict[int, list[tuple[int, int]]] = {}
            for ranges, target in state.edges:
                by_target.setdefault(target, []).extend(ranges)
            state.edges = [(union(spans), target) for target, spans in by_target.items()]
            look = frozenset((r, -1 if target == number else target) for r, target in state.edges)
            same[number] = known.setdefault((state.accepts, look), number)
        if len(known) == len(states):
            break
        kept = sorted(known.values())
        place = {number: index for index, number in enumerate(kept)}
        for number in kept:
            states[number].edges = [(r, place[same[t]]) for r, t in states[number].edges]
        states = [states[number] for number in kept]
    return states


def _single(ranges: Ranges) -> int | None:
    low, high = ranges[0]
    return low if len(ranges) == 1 and low == high else None


def _written(code: int, *, quoted: bool) -> str:
    if quoted and code in _ESCAPES:
        return "\\" + _ESCAPES[code]
    return f"\\u{code:04X}" if quoted and code < 0x20 else chr(code)


def _items(ranges: Ranges, *, quoted: bool) -> Iterator[str]:
    """GBNF items that match the ways in which characters of `ranges` are written."""
    if not quoted:
        yield quote_class(ranges)
        return
    plain = subtract(ranges, subtract(CHARACTERS, _UNQUOTED))
    if plain:
        yield quote_class(plain)
    escapes = [
        e for code, e in _ESCAPES.items() if any(low <= code <= high for low, high in ranges)
    ]
    if escapes:
        codes = union([(ord(e), ord(e)) for e in escapes])
        yield rf'"\\" {quote_class(codes)}'
    if not plain and not escapes:  # else those few are left out
        controls = [quote(f"\\u{c:04X}") for low, high in ranges for c in range(low, high + 1)]
        yield choice(controls)
