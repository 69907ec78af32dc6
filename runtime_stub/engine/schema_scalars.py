"""GBNF for what is one value in JSON Schema: enumerations, strings, numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from runtime_stub.engine import digits
from runtime_stub.engine.automaton import compile_node
from runtime_stub.engine.expressions import Node, either, text
from runtime_stub.engine.grammar import quote
from runtime_stub.engine.grammar_builder import CHARACTER, INTEGER, NUMBER, STRING, Rules
from runtime_stub.engine.pattern import format_node, parse_pattern
from runtime_stub.engine.schema_parts import (
    KEYWORDS,
    TYPES,
    below,
    encode,
    fail,
    type_fits,
    types_of,
)
from runtime_stub.errors import PromptError

Keywords = Mapping[str, Any]


class Scalars:
    """Adds rules, with names like `name`, to `rules`. Each method returns one GBNF item."""

    def __init__(self, rules: Rules, name: str) -> None:
        self._rules = rules
        self._name = name

    def values(self, found: Keywords, where: str) -> str:
        """One of the values that "enum" and "const" name."""
        combined = [k for k in found if k in KEYWORDS - {"enum", "const", "type"}]
        if combined:
            what = f'"{combined[0]}" is not supported beside "enum" or "const"'
            fail(what, below(where, combined[0]))
        values = found["enum"] if "enum" in found else [found["const"]]
        if not isinstance(values, list):
            fail('"enum" must be a list', below(where, "enum"))
        types = types_of(found["type"], where) if "type" in found else TYPES
        texts = dict.fromkeys(encode(value) for value in values if type_fits(value, types))
        if "const" in found:
            wanted = encode(found["const"])
            texts = {wanted: None} if wanted in texts else {}
        if not texts:
            fail("no value is allowed here", below(where, "enum" if "enum" in found else "const"))
        if len(texts) == 1:
            return quote(next(iter(texts)))
        node = either(*map(text, texts))
        return self._automaton(node, below(where, "enum"), quoted=False)

    def string(self, found: Keywords, where: str) -> str:
        """A string of some length, pattern or format."""
        least, most = lengths(found, "minLength", "maxLength", where)
        pattern, kind = found.get("pattern"), found.get("format")
        if pattern is None and kind is None:
            if (least, most) == (0, None):
                return STRING
            inner = self._rules.repeat(CHARACTER, least, most)
            return self._rules.add_rule(self._name, rf'"\"" {inner} "\""')
        if pattern is not None and kind is not None:
            fail('"pattern" beside "format" is not supported', below(where, "pattern"))
        keyword = "format" if pattern is None else "pattern"
        value = kind if pattern is None else pattern
        if not isinstance(value, str):
            fail(f'"{keyword}" must be a text', below(where, keyword))

        def make() -> str:
            try:
                node = format_node(value) if pattern is None else parse_pattern(value)
            except PromptError as error:
                fail(f'"pattern" is not understood: {error.message}', below(where, keyword))
            if node is None:
                fail(f'the format "{value[:80]}" is not supported', below(where, keyword))
            place = below(where, keyword)
            return self._automaton(node, place, quoted=True, bounds=(least, most))

        return self._rules.shared((keyword, value, least, most), make)

    def integer(self, found: Keywords, where: str) -> str:
        """An integer within bounds."""
        return self._bounded(found, where, INTEGER, digits.integers)

    def number(self, found: Keywords, where: str) -> str:
        """A number within bounds."""
        return self._bounded(found, where, NUMBER, digits.numbers)

    def _bounded(
        self,
        found: Keywords,
        where: str,
        free: str,
        make: Callable[[digits.Bound | None, digits.Bound | None], Node | None],
    ) -> str:
        multiple = found.get("multipleOf")
        if multiple is not None and not (free == INTEGER and multiple == 1):
            fail('the keyword "multipleOf" is not supported', below(where, "multipleOf"))
        low = _bound(found, "minimum", "exclusiveMinimum", max, where)
        high = _bound(found, "maximum", "exclusiveMaximum", min, where)
        if low is None and high is None:
            return free
        node = make(low, high)
        if node is None:
            fail("no number is within the bounds", where)
        return self._rules.shared(
            (free, low, high), lambda: self._automaton(node, where, quoted=False)
        )

    def _automaton(
        self,
        node: Node,
        where: str,
        *,
        quoted: bool,
        bounds: tuple[int, int | None] = (0, None),
    ) -> str:
        try:
            automaton = compile_node(node, self._rules.spend)
            if bounds != (0, None):
                automaton = automaton.bounded(*bounds, self._rules.spend)
            rule = self._rules.add_automaton(self._name, automaton, quoted=quoted)
        except PromptError as error:
            fail(error.message, where)
        return self._rules.add_rule(self._name, rf'"\"" {rule}') if quoted else rule


def lengths(found: Keywords, low: str, high: str, where: str) -> tuple[int, int | None]:
    """The numbers that two keywords allow, None being without end."""
    for keyword in (low, high):
        value = found.get(keyword, 0)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not 0 <= value <= 1 << 62 or value != int(value):
            fail(f'"{keyword}" must be a natural number', below(where, keyword))
    least = int(found.get(low, 0))
    most = int(found[high]) if high in found else None
    if most is not None and most < least:
        fail(f'"{low}" is above "{high}"', below(where, low))
    return least, most


def _bound(
    found: Keywords,
    inclusive: str,
    exclusive: str,
    stricter: Callable[..., Any],
    where: str,
) -> digits.Bound | None:
    """The stricter of two bounds. As a boolean, `exclusive` says so of the other."""
    values = dict(found)
    if isinstance(values.get(exclusive), bool) and values.pop(exclusive) and inclusive in values:
        values[exclusive] = values.pop(inclusive)
    bounds = []
    for keyword, is_open in ((exclusive, True), (inclusive, False)):
        if keyword in values:
            try:
                bounds.append((digits.bound(values[keyword]), is_open))
            except PromptError as error:
                fail(error.message, below(where, keyword))
    # Of equal ones the first, which is exclusive.
    return stricter(bounds, key=lambda bound: bound[0]) if bounds else None
