"""Regular expressions as JSON Schema writes them: the part that describes a language.

Understood are characters, classes, groups, alternatives, repetitions (lazy ones too: the
texts are the same), the usual escapes, and ^ and $ at the ends of an alternative. What looks
around or back (assertions, back-references, word boundaries) is refused.
"""

from __future__ import annotations

import re
import string
from typing import NoReturn

from runtime_stub.engine.expressions import (
    CHARACTERS,
    EMPTY,
    Characters,
    Choice,
    Node,
    Repeat,
    sequence,
)
from runtime_stub.engine.grammar_parts import Ranges, subtract, union
from runtime_stub.errors import PromptError

MAX_TEXT = 4000
"""Longest expression, in characters."""
MAX_NESTING = 32
MAX_REPETITIONS = 4000

_DIGITS: Ranges = ((0x30, 0x39),)
_WORD: Ranges = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_SPACE = union(
    [  # as in JavaScript, whose expressions these are
        (ord(character), ord(character))
        for character in "\t\n\v\f\r \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006"
        "\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
    ]
)
_LINE_ENDS: Ranges = ((10, 10), (13, 13), (0x2028, 0x2029))
_SETS = {"d": _DIGITS, "w": _WORD, "s": _SPACE}
_CONTROLS = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13, "0": 0}
_CODE = re.compile(r"x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|u\{([0-9a-fA-F]{1,6})\}|U([0-9a-fA-F]{8})")
_BRACES = re.compile(r"\{([0-9]{1,9})(,([0-9]{1,9})?)?\}")
_GROUP = re.compile(r"\((?:\?:|\?P?<[a-zA-Z_][a-zA-Z0-9_]*>)?")
_ANY = Repeat(Characters(CHARACTERS), 0, None)


def parse_pattern(expression: str) -> Node:
    """What `expression` matches, as whole texts.

    As in JSON Schema the expression may match anywhere in a text, unless ^ or $ bind it.
    Raises PromptError that says what is wrong or not understood, and where.
    """
    if len(expression) > MAX_TEXT:
        raise PromptError(f"the expression is longer than {MAX_TEXT:,} characters")
    reader = _Reader(expression)
    parts = [reader.alternative()]
    while reader.take("|"):
        parts.append(reader.alternative())
    reader.end()
    return Choice(tuple(parts))


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def take(self, wanted: str) -> bool:
        found = self._text.startswith(wanted, self._at)
        self._at += len(wanted) if found else 0
        return found

    def end(self) -> None:
        if self._at < len(self._text):
            self._fail("it should end here")

    def alternative(self) -> Node:
        """One alternative on the outermost level, where the ends are free unless bound."""
        before = EMPTY if self.take("^") else _ANY
        inner = self._sequence(0)
        after = EMPTY if self.take("$") else _ANY
        return sequence(before, inner, after)

    def _alternatives(self, depth: int) -> Node:
        parts = [self._sequence(depth)]
        while self.take("|"):
            parts.append(self._sequence(depth))
        return Choice(tuple(parts))

    def _sequence(self, depth: int) -> Node:
        parts: list[Node] = []
        while self._at < len(self._text) and self._text[self._at] not in "|)":
            if self._text[self._at] == "$" and depth == 0:
                break
            parts.append(self._repeated(self._item(depth)))
        return sequence(*parts)

    def _item(self, depth: int) -> Node:
        character = self._text[self._at]
        if character == "(":
            return self._group(depth + 1)
        if character == "[":
            return Characters(self._class())
        if character in "^$":
            self._fail(f'"{character}" is understood at the ends only')
        if character in "*+?{":
            self._fail("there is nothing to repeat")
        self._at += 1
        if character == ".":
            return Characters(subtract(CHARACTERS, _LINE_ENDS))
        if character == "\\":
            return Characters(self._escape(in_class=False))
        return Characters(((ord(character), ord(character)),))

    def _group(self, depth: int) -> Node:
        if depth > MAX_NESTING:
            self._fail(f"groups nest deeper than {MAX_NESTING}")
        opening = _GROUP.match(self._text, self._at)
        if opening is None or self._text.startswith("?", opening.end()):
            self._fail("this kind of group is not supported")
        self._at = opening.end()
        inner = self._alternatives(depth)
        if not self.take(")"):
            self._fail('")" is missing')
        return inner

    def _repeated(self, item: Node) -> Node:
        least, most = 1, 1
        bounds: tuple[int, int | None]
        if self.take("*"):
            bounds = (0, None)
        elif self.take("+"):
            bounds = (1, None)
        elif self.take("?"):
            bounds = (0, 1)
        elif (braces := _BRACES.match(self._text, self._at)) is not None:
            least = int(braces[1])
            most = int(braces[3]) if braces[3] else least
            if max(least, most) > MAX_REPETITIONS or most < least:
                self._fail(f"repetitions go up to {MAX_REPETITIONS:,}, in ascending order")
            bounds = (least, None if braces[2] == "," else most)
            self._at = braces.end()
        else:
            return item
        self.take("?")  # lazy
        if self._at < len(self._text) and self._text[self._at] in "*+?{":
            self._fail("a repetition of a repetition is not supported")
        return Repeat(item, *bounds)

    def _class(self) -> Ranges:
        self._at += 1
        negated = self.take("^")
        found: list[tuple[int, int]] = []
        while not self.take("]"):
            low = self._class_character()
            is_range = self._text.startswith("-", self._at) and not self._text.startswith(
                "-]", self._at
            )
            if not is_range:
                found += low
                continue
            self._at += 1
            high = self._class_character()
            if len(low) != 1 or len(high) != 1 or low[0][0] != low[0][1] or low[0][0] > high[0][1]:
                self._fail("the range is not valid")
            found.append((low[0][0], high[0][1]))
        outside = subtract(CHARACTERS, found)
        return outside if negated else subtract(CHARACTERS, outside)

    def _class_character(self) -> Ranges:
        if self._at >= len(self._text):
            self._fail('"]" is missing')
        if self.take("\\"):
            return self._escape(in_class=True)
        code = ord(self._text[self._at])
        self._at += 1
        return ((code, code),)

    def _escape(self, *, in_class: bool) -> Ranges:
        """What the escape after a backslash matches."""
        character = self._text[self._at : self._at + 1]
        coded = _CODE.match(self._text, self._at)
        if coded is not None:
            code = int(next(group for group in coded.groups() if group), 16)
            self._at = coded.end()
            return ((code, code),)
        self._at += 1
        if character in _SETS:
            return _SETS[character]
        if character.lower() in _SETS:
            return subtract(CHARACTERS, _SETS[character.lower()])
        if in_class and character == "b":
            return ((8, 8),)
        if character in _CONTROLS:
            return ((_CONTROLS[character], _CONTROLS[character]),)
        if not character or character in string.ascii_letters + string.digits:
            self._fail("the escape is not supported")
        return ((ord(character), ord(character)),)

    def _fail(self, what: str) -> NoReturn:
        raise PromptError(f"{what}, at character {self._at + 1}")


def _format(expression: str) -> Node:
    return parse_pattern(f"^(?:{expression})$")


_YEAR = r"[0-9]{4}"
_DAY = (
    rf"{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    r"|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
)
_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?"
_ZONE = r"(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_BYTE = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_N = "[0-9]{1,9}"
_DATES = rf"(?:{_N}Y(?:{_N}M(?:{_N}D)?)?|{_N}M(?:{_N}D)?|{_N}D)"
_TIMES = rf"T(?:{_N}H(?:{_N}M(?:{_N}S)?)?|{_N}M(?:{_N}S)?|{_N}S)"
FORMATS = {
    "date": _DAY,
    "time": _CLOCK + _ZONE,
    "date-time": f"{_DAY}T{_CLOCK}{_ZONE}",
    "duration": rf"P(?:{_N}W|{_DATES}(?:{_TIMES})?|{_TIMES})",
    "uuid": r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}",
    "ipv4": rf"{_BYTE}(?:\.{_BYTE}){{3}}",
    "ipv6": r"(?:[0-9a-fA-F]{1,4}:){7}[0-9a-fA-F]{1,4}",
    "hostname": rf"{_LABEL}(?:\.{_LABEL}){{0,3}}",
    "email": rf"[a-zA-Z0-9_+-]{{1,64}}(?:\.[a-zA-Z0-9_+-]{{1,64}})?@{_LABEL}(?:\.{_LABEL}){{1,3}}",
    "uri": rf"https?://{_LABEL}(?:\.{_LABEL}){{0,3}}(?::[0-9]{{1,5}})?(?:/[a-zA-Z0-9._~!$&'()*+,;=:@-]*)*",
}
"""Values of the keyword "format" and an expression for each. Every text that one of these
matches is of the format; not every text of the format is matched (29 February, short forms
of IPv6)."""


def format_node(name: str) -> Node | None:
    """What the format `name` matches; None for an unknown one."""
    expression = FORMATS.get(name)
    return None if expression is None else _format(expression)
