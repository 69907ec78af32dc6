"""From the text of a grammar to its rules."""

from __future__ import annotations

import re
from typing import NoReturn

from runtime_stub.engine.grammar_parts import Element, Grammar, Rule, Terminal, Token, subtract

MAX_NESTING = 64
"""Deepest nesting of parentheses: llama.cpp recurses, and 20,000 overflow its stack."""
MAX_REPETITIONS = 2000
"""Largest number in braces. llama.cpp takes more than that for "without end"."""
MAX_RULES = 20_000
MAX_ELEMENTS = 250_000
"""Bounds after repetitions are written out, which is how llama.cpp stores them."""

_TEXT = ((1, 0xD7FF), (0xE000, 0x10FFFF))  # what can occur in generated text
_NAME = re.compile(r"[a-zA-Z0-9-]+")
_NUMBER = re.compile(r"[0-9]+")
_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_SPACE_AND_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_PLAIN = re.compile(r'[^"\\]+')
_ESCAPE = re.compile(r'\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([trn\\"\[\]-]))')
_TOKEN = re.compile(r"!?<(?:\[[0-9]+\]|(?!\[)[^>]*)>")
_CONTROLS = {"t": "\t", "r": "\r", "n": "\n"}
_LARGEST_TOKEN = (1 << 31) - 1


class Parser:
    """Reads text once, as llama.cpp's parser does, down to the numbering of its rules.

    The numbering matters: llama.cpp limits a repetition by how many rules its item made,
    and a name counts as one where it is first mentioned.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._numbers: dict[str, int] = {}
        self._mentions: dict[str, int] = {}
        self._rules: dict[int, Rule] = {}
        self._count = 0
        self._elements = 0
        self._name = ""

    def grammar(self) -> Grammar:
        """What the text says. Raises PromptError if it is not a grammar, or a huge one."""
        self._space(lines=True)
        while self._at < len(self._text):
            self._rule()
        for name, number in self._numbers.items():
            if number not in self._rules:
                self._fail(f'there is no rule named "{name[:80]}"', self._mentions[name])
        root = self._numbers.get("root")
        if root is None:
            self._name = ""
            self._fail('there is no rule named "root"', 0)
        return Grammar(tuple(self._rules[number] for number in range(self._count)), root)

    def _rule(self) -> None:
        start = self._at
        name = self._expect(_NAME, "the name of a rule")
        self._name = name
        number = self._named(name, start)
        if number in self._rules:
            self._fail("the rule is defined twice", start)
        self._space()
        if not self._text.startswith("::=", self._at):
            self._fail('"::=" is missing', self._at)
        self._at += 3
        self._space(lines=True)
        self._alternatives(number, start, 0)
        if self._at < len(self._text) and self._text[self._at] not in "\r\n":
            self._fail("the rule should end here", self._at)
        self._space(lines=True)

    def _alternatives(self, number: int, start: int, depth: int) -> None:
        alternatives = [self._sequence(depth)]
        while self._text.startswith("|", self._at):
            self._at += 1
            self._space(lines=True)
            alternatives.append(self._sequence(depth))
        self._add(number, start, tuple(alternatives))

    def _sequence(self, depth: int) -> tuple[Element, ...]:
        done: list[Element] = []
        item: list[Element] | None = None  # what a repetition would repeat
        rules = 1  # how many rules llama.cpp counts for it
        while self._at < len(self._text):
            start = self._at
            character = self._text[start]
            if character in "*+?{":
                least, most = self._repetition(lines=depth > 0)
                if not item:
                    self._fail("there is nothing to repeat", start)
                times = most or least or 1
                if rules * times > MAX_REPETITIONS:
                    self._fail("the item is too large to be repeated so often", start)
                rules *= times
                item = self._repeat(item, least, most, start)
                continue
            if character not in '"[<!(.' and not _NAME.match(character):
                break
            done += item or ()
            rules = 1
            if character == '"':
                item = self._literal()
            elif character == "[":
                item = [self._character_class()]
            elif character in "<!":
                item = [self._token()]
            elif character == ".":
                self._at += 1
                item = [Terminal(_TEXT, 1)]
            elif character == "(":
                before = self._count
                item = [self._group(start, depth + 1)]
                rules = self._count - before
            else:
                item = [self._named(self._expect(_NAME, "a name"), start)]
            self._grow(sum(_size(element) for element in item), start)
            self._space(lines=depth > 0)
        done += item or ()
        return tuple(done)

    def _group(self, start: int, depth: int) -> int:
        if depth > MAX_NESTING:
            self._fail(f"parentheses nest deeper than {MAX_NESTING}", start)
        self._at += 1
        self._space(lines=True)
        number = self._number(start)
        self._alternatives(number, start, depth)
        if not self._text.startswith(")", self._at):
            self._fail('")" is missing', self._at)
        self._at += 1
        return number

    def _literal(self) -> list[Element]:
        start = self._at
        self._at += 1
        found: list[Element] = []
        while not self._text.startswith('"', self._at):
            plain = _PLAIN.match(self._text, self._at)
            if plain is not None:
                found += (Terminal(((ord(c), ord(c)),), 1) for c in plain.group())
                self._at = plain.end()
            else:
                at = self._at
                code = self._character(start)
                if not _is_text(code):
                    self._fail("the character can't occur in text", at)
                found.append(Terminal(((code, code),), 1))
        self._at += 1
        return found

    def _character_class(self) -> Terminal:
        start = self._at
        self._at += 1
        negated = self._text.startswith("^", self._at)
        self._at += negated
        ranges: list[tuple[int, int]] = []
        size = 0
        while not self._text.startswith("]", self._at):
            low = high = self._character(start)
            size += 1
            following = self._text[self._at : self._at + 2]
            if following.startswith("-") and following != "-]":
                self._at += 1
                high = self._character(start)
                size += 1
            if low <= high:
                ranges.append((low, high))
        self._at += 1
        if not size:
            self._fail("the character class is empty", start)
        outside = subtract(_TEXT, ranges)
        matched = outside if negated else subtract(_TEXT, outside)
        if not matched:
            self._fail("the character class matches nothing", start)
        return Terminal(matched, size)

    def _character(self, start: int) -> int:
        """The code point at the current place; `start` is where its literal or class began."""
        if self._at >= len(self._text):
            self._fail("it does not end", start)
        if self._text[self._at] != "\\":
            self._at += 1
            return ord(self._text[self._at - 1])
        found = _ESCAPE.match(self._text, self._at)
        if found is None:
            self._fail("the escape is not known or not complete", self._at)
        self._at = found.end()
        digits = found[1] or found[2] or found[3]
        return int(digits, 16) if digits else ord(_CONTROLS.get(found[4], found[4]))

    def _token(self) -> Token:
        start = self._at
        text = self._expect(_TOKEN, "a token such as <[42]> or <name>")
        digits = text.lstrip("!<[").rstrip("]>") if "<[" in text else ""
        if digits and (len(digits) > 10 or int(digits) > _LARGEST_TOKEN):
            self._fail("there is no such token", start)
        return Token(text.lstrip("!"), text.startswith("!"))

    def _repetition(self, *, lines: bool) -> tuple[int, int | None]:
        start = self._at
        symbol = self._text[start]
        self._at += 1
        self._space(lines=lines)
        if symbol != "{":
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[symbol]
        least = self._integer(lines=lines)
        most: int | None = least
        if self._text.startswith(",", self._at):
            self._at += 1
            self._space(lines=lines)
            more = not self._text.startswith("}", self._at)
            most = self._integer(lines=lines) if more else None
        if not self._text.startswith("}", self._at):
            self._fail('"}" is missing', self._at)
        self._at += 1
        self._space(lines=lines)
        if most is not None and most < least:
            self._fail("the repetition's bounds are the wrong way round", start)
        return least, most

    def _integer(self, *, lines: bool) -> int:
        start = self._at
        digits = self._expect(_NUMBER, "a number of repetitions")
        self._space(lines=lines)
        if len(digits) > 100 or int(digits) > MAX_REPETITIONS:
            self._fail(f"more than {MAX_REPETITIONS:,} repetitions", start)
        return int(digits)

    def _repeat(
        self, item: list[Element], least: int, most: int | None, start: int
    ) -> list[Element]:
        """`item`, `least` to `most` times, with the rules that llama.cpp makes for it."""
        optional = 1 if most is None else most - least
        size = sum(_size(element) for element in item)
        self._grow(max(0, least - 1) * size + optional * (size + 1), start)
        repeated = item * least
        last: list[Element] = []
        for _ in range(optional):
            number = self._number(start)
            following = [number] if most is None else last
            self._add(number, start, ((*item, *following), ()))
            last = [number]
        return repeated + last

    def _add(self, number: int, start: int, alternatives: tuple[tuple[Element, ...], ...]) -> None:
        self._grow(len(alternatives), start)
        line, column = self._place(start)
        self._rules[number] = Rule(self._name, line, column, alternatives)

    def _grow(self, elements: int, start: int) -> None:
        self._elements += elements
        if self._elements > MAX_ELEMENTS:
            self._fail(f"the grammar has more than {MAX_ELEMENTS:,} elements", start)

    def _number(self, start: int) -> int:
        self._count += 1
        if self._count > MAX_RULES:
            self._fail(f"the grammar has more than {MAX_RULES:,} rules", start)
        return self._count - 1

    def _named(self, name: str, start: int) -> int:
        if name not in self._numbers:
            self._numbers[name] = self._number(start)
            self._mentions[name] = start
        return self._numbers[name]

    def _expect(self, pattern: re.Pattern[str], what: str) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:
            self._fail(f"{what} is missing", self._at)
        self._at = found.end()
        return found.group()

    def _space(self, *, lines: bool = False) -> None:
        found = (_SPACE_AND_LINES if lines else _SPACE).match(self._text, self._at)
        self._at = found.end() if found else self._at

    def _place(self, at: int) -> tuple[int, int]:
        return self._text.count("\n", 0, at) + 1, at - (self._text.rfind("\n", 0, at) + 1) + 1

    def _fail(self, what: str, at: int) -> NoReturn:
        raise Rule(self._name, *self._place(at), ()).error(what)


def _is_text(code: int) -> bool:
    return any(low <= code <= high for low, high in _TEXT)


def _size(element: Element) -> int:
    return element.size if isinstance(element, Terminal) else 1
