"""Text that arrives in pieces, read as if it were whole.

Readers are coroutines: where a step needs text that is not there yet, it yields, and goes on
when there is more. What they read therefore depends on the text alone, never on how it was cut.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator
from typing import TypeVar

T = TypeVar("T")
Steps = Generator[None, None, T]
Put = Callable[[str], object]

MAX_DEPTH = 64
"""Of nested values: each level is a Python call."""
_LONGEST_NUMBER = 400
_WHITESPACE = " \t\r\n"
_UNESCAPED = re.compile(r'[^"\\\x00-\x1f]+')
_ESCAPE = re.compile(r'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})')
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_NUMERIC = frozenset("+-.eE0123456789")


class MalformedError(Exception):
    """The text is not what it seemed to become."""


class Source:
    """The text that has come and where the reader stands in it."""

    def __init__(self) -> None:
        self.text = ""
        self.at = 0
        self.ended = False
        """No more text will come."""

    def trim(self) -> None:
        """Forget what has been read. Positions from before are void."""
        self.text = self.text[self.at :]
        self.at = 0

    def peek(self) -> Steps[str]:
        """The next character, left where it is; empty at the end."""
        while self.at >= len(self.text):
            if self.ended:
                return ""
            yield
        return self.text[self.at]

    def next(self) -> Steps[str]:
        """Read one character, which must come."""
        character = yield from self.peek()
        if not character:
            raise MalformedError
        self.at += 1
        return character

    def take(self, literal: str) -> Steps[bool]:
        """Read `literal` if it comes next."""
        while True:
            if self.text.startswith(literal, self.at):
                self.at += len(literal)
                return True
            if self.ended or not literal.startswith(self.text[self.at : self.at + len(literal)]):
                return False
            yield

    def expect(self, literal: str) -> Steps[None]:
        """Read `literal`, which must come next."""
        if not (yield from self.take(literal)):
            raise MalformedError

    def skip(self) -> Steps[str]:
        """Read white space and answer the character after it, which is left."""
        while True:
            character = yield from self.peek()
            if not character or character not in _WHITESPACE:
                return character
            self.at += 1

    def until(self, *ends: str, limit: int | None = None) -> Steps[tuple[str, str]]:
        """Read up to and with the first of `ends`: the text before it, and which it was.

        Malformed when none comes, or none within `limit` characters.
        """
        pattern = re.compile("|".join(map(re.escape, ends)))
        longest = max(map(len, ends))
        start = scanned = self.at
        while True:
            found = pattern.search(self.text, scanned)
            if found and (limit is None or found.start() - start <= limit):
                self.at = found.end()
                return self.text[start : found.start()], found[0]
            beyond = limit is not None and len(self.text) - start >= limit + longest
            if found or beyond or self.ended:
                raise MalformedError
            scanned = max(start, len(self.text) - longest + 1)
            yield

    def json(self, put: Put, depth: int = 0) -> Steps[None]:
        """Read one JSON value, handing its text to `put` as it comes.

        One liberty: control characters in strings, which models write, come out escaped.
        """
        if depth > MAX_DEPTH:
            raise MalformedError
        character = yield from self.peek()
        if character == '"':
            yield from self._string(put)
        elif character == "{":
            yield from self._members("}", put, depth)
        elif character == "[":
            yield from self._members("]", put, depth)
        elif character in {"t", "f", "n"}:
            word = {"t": "true", "f": "false", "n": "null"}[character]
            yield from self.expect(word)
            put(word)
        else:
            yield from self._number(put)

    def string(self) -> Steps[str]:
        """Read a JSON string and answer what it says."""
        parts: list[str] = []
        yield from self._string(parts.append)
        text: str = json.loads("".join(parts))
        try:
            text.encode()
        except UnicodeEncodeError:  # half a surrogate pair: no text at all
            raise MalformedError from None
        return text

    def _members(self, closer: str, put: Put, depth: int) -> Steps[None]:
        yield from self._mark(put)
        if (yield from self._space(put)) == closer:
            yield from self._mark(put)
            return
        while True:
            if closer == "}":
                yield from self._string(put)
                if (yield from self._space(put)) != ":":
                    raise MalformedError
                yield from self._mark(put)
                yield from self._space(put)
            yield from self.json(put, depth + 1)
            following = yield from self._space(put)
            if following not in {",", closer}:
                raise MalformedError
            yield from self._mark(put)
            if following == closer:
                return
            yield from self._space(put)

    def _mark(self, put: Put) -> Steps[None]:
        put((yield from self.next()))

    def _space(self, put: Put) -> Steps[str]:
        while True:
            character = yield from self.peek()
            if not character or character not in _WHITESPACE:
                return character
            self.at += 1
            put(character)

    def _string(self, put: Put) -> Steps[None]:
        if (yield from self.peek()) != '"':
            raise MalformedError
        yield from self._mark(put)
        while True:
            character = yield from self.peek()
            plain = _UNESCAPED.match(self.text, self.at)
            if plain:
                self.at = plain.end()
                put(plain[0])
            elif character == '"':
                yield from self._mark(put)
                return
            elif character == "\\":
                yield from self._escape(put)
            elif character:
                self.at += 1
                put(json.dumps(character)[1:-1])
            else:
                raise MalformedError

    def _escape(self, put: Put) -> Steps[None]:
        while not (found := _ESCAPE.match(self.text, self.at)):
            # Six characters are the longest escape, \u and four digits.
            if self.ended or len(self.text) - self.at >= 6 or not self._may_escape():
                raise MalformedError
            yield
        self.at = found.end()
        put(found[0])

    def _may_escape(self) -> bool:
        begun = self.text[self.at + 1 :]
        return not begun or bool(re.fullmatch(r"u[0-9a-fA-F]{0,4}", begun))

    def _number(self, put: Put) -> Steps[None]:
        start = end = self.at
        while True:
            while end < len(self.text) and self.text[end] in _NUMERIC:
                end += 1
            if end - start > _LONGEST_NUMBER:
                raise MalformedError
            if end < len(self.text) or self.ended:
                break
            yield
        if not _NUMBER.fullmatch(self.text, start, end):
            raise MalformedError
        self.at = end
        put(self.text[start:end])


class Tags:
    """Texts to look for, in text that comes in pieces."""

    def __init__(self, tags: tuple[str, ...], ignored: tuple[str, ...] = ()) -> None:
        self.tags = tags
        self.ignored = ignored
        self._all = (*tags, *ignored)
        self._longest = max(map(len, self._all), default=0)
        self._pattern = re.compile("|".join(map(re.escape, self._all)) or r"(?!)")

    def search(self, text: str, start: int) -> re.Match[str] | None:
        """The first of them."""
        return self._pattern.search(text, start)

    def held(self, text: str, start: int) -> int:
        """From where on `text` could become a tag, or white space before one."""
        first = max(start, len(text) - self._longest + 1)
        for place in range(first, len(text)):
            ending = text[place:]
            if any(tag.startswith(ending) for tag in self._all):
                break
        else:
            place = len(text)
        return start + len(text[start:place].rstrip()) if self.tags else place
