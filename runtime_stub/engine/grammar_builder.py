"""Grammars put together from rules, with those of JSON at hand."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence

from runtime_stub.engine.automaton import Automaton
from runtime_stub.engine.grammar import parse
from runtime_stub.errors import PromptError

MAX_TEXT = 1 << 20
"""Longest grammar that is built, in bytes."""
MAX_WORK = 600_000
"""Bound of the work on one builder, in steps of about a microsecond or two."""

WS, STRING, CHARACTER, KEY_END = "json-ws", "json-string", "json-char", "json-key-end"
INTEGER, NUMBER, VALUE = "json-integer", "json-number", "json-value"
OBJECT, ARRAY = "json-object", "json-array"

# Between tokens of JSON there is nothing, a space, or a line break with an indentation: a
# model can format as it likes, and can't go on with blanks for ever. No two of them meet,
# and they stand where no character fits both them and what follows: one reading, always.
# Escapes of surrogates are left out: pairs would count twice, and single ones are no text.
_JSON = {
    WS: r'" " | "\n" [ \t]{0,32} | ""',
    CHARACTER: (r'[ !#-\[\]-\uD7FF\uE000-\U0010FFFF] | "\\" (["\\/bfnrt] | "u" json-code)'),
    "json-code": "[0-9A-Ca-cEFef] json-hex{3} | [Dd] [0-7] json-hex{2}",
    "json-hex": "[0-9A-Fa-f]",
    STRING: rf'"\"" {CHARACTER}* "\""',
    KEY_END: rf'{CHARACTER}* "\""',
    INTEGER: r'"-"? ("0" | [1-9] [0-9]{0,18})',
    NUMBER: rf'{INTEGER} ("." [0-9]{{1,17}})? ([eE] [+\-]? [0-9]{{1,2}})?',
    VALUE: rf'{OBJECT} | {ARRAY} | {STRING} | {NUMBER} | "true" | "false" | "null"',
    OBJECT: rf'"{{" {WS} (json-pair ("," {WS} json-pair)* {WS})? "}}"',
    "json-pair": rf'{STRING} ":" {WS} {VALUE}',
    ARRAY: rf'"[" {WS} ({VALUE} ("," {WS} {VALUE})* {WS})? "]"',
}
_BASE = "".join(f"{name} ::= {body}\n" for name, body in _JSON.items())
JSON_OBJECT = f"root ::= {OBJECT}\n{_BASE}"
"""A grammar of any JSON object."""

_LONGEST_CHAIN = 256


class Rules:
    """Rules under names of their own."""

    def __init__(self) -> None:
        self._bodies: dict[str, str | None] = dict.fromkeys(("root", *_JSON))
        self._uses: dict[str, int] = {}
        self._shared: dict[Hashable, str] = {}
        self._ambiguous: set[str] = set()
        self._size = 0
        self._work = 0

    def reserve(self, name: str) -> str:
        """A free name for a rule, like `name`; `define` must follow."""
        base = re.sub(r"[^a-zA-Z0-9]+", "-", name[:40]).strip("-") or "rule"
        free = base
        while free in self._bodies:
            self._uses[base] = self._uses.get(base, 1) + 1
            free = f"{base}-{self._uses[base]}"
        self._bodies[free] = ""
        return free

    def define(self, name: str, body: str) -> str:
        """Set the body of a reserved rule; returns the name."""
        self._size += len(name) + len(body)
        if self._size > MAX_TEXT:
            raise PromptError("the grammar gets too large")
        self._bodies[name] = body
        return name

    def add_rule(self, name: str, body: str) -> str:
        """Add a rule with a name like `name`. Returns the name it got, to refer to it."""
        return self.define(self.reserve(name), body)

    def add_choice(self, name: str, alternatives: Sequence[str]) -> str:
        """Add a rule for any of `alternatives`, which may begin alike."""
        rule = self.add_rule(name, " | ".join(alternatives))
        self._ambiguous.add(rule)
        return rule

    def spend(self, steps: int) -> None:
        """Note `steps` of work. Raises PromptError when it has been too much."""
        self._work += steps
        if self._work > MAX_WORK:
            raise PromptError("it is too complex")

    def add_automaton(self, name: str, automaton: Automaton, *, quoted: bool) -> str:
        """Rules of `automaton`; quoted, they match what follows a quotation mark."""
        names: dict[int, str] = {}

        def named(number: int) -> str:
            if number not in names:
                names[number] = self.reserve(name)
            return names[number]

        first = named(0)
        automaton.rules(lambda n, body: self.define(named(n), body), named, quoted=quoted)
        return first

    def shared(self, key: Hashable, make: Callable[[], str]) -> str:
        """The rule that `make` added when first asked for `key`."""
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]

    def repeat(self, item: str, least: int, most: int | None) -> str:
        """GBNF for the rule `item`, `least` to `most` times.

        llama.cpp writes repetitions out and has a limit; larger ones are built of halves.
        """
        rest = f"{item}*" if most is None else self._up_to(item, most - least)
        return " ".join(part for part in (self._exactly(item, least), rest) if part)

    def _exactly(self, item: str, count: int) -> str:
        if count <= _LONGEST_CHAIN:
            return "" if count == 0 else item if count == 1 else f"{item}{{{count}}}"

        def make() -> str:
            half = self._exactly(item, count // 2)
            odd = f" {item}" if count % 2 else ""
            return self.add_rule(f"{item}-{count}", f"{half} {half}{odd}")

        return self.shared((item, "exactly", count), make)

    def _up_to(self, item: str, count: int) -> str:
        if count == 0:
            return ""

        def make() -> str:
            body = f"{item}{{0,{count}}}"
            if count > _LONGEST_CHAIN:
                half = (count + 1) // 2
                longer = f"{self._exactly(item, half)} {self._up_to(item, count - half)}"
                body = f"{longer} | {self._up_to(item, half - 1)}"
            return self.add_rule(f"{item}-up-to-{count}", body)

        return self.shared((item, "up to", count), make)

    def text(self, root: str) -> str:
        """The grammar, with `root` (GBNF, such as the name of a rule) as what is generated.

        Raises PromptError if llama.cpp can't be trusted with it.
        """
        lines = [f"root ::= {root}\n"]
        lines += (f"{name} ::= {body}\n" for name, body in self._bodies.items() if body)
        grammar = "".join(lines) + _BASE
        parse(grammar, 2 * MAX_TEXT, self._ambiguous)
        return grammar
