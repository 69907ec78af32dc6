"""GBNF, llama.cpp's notation for grammars: read here before native code reads it.

llama.cpp's own parser and sampler abort the process, or never return, on grammars that are
not sound. What `parse` lets through has none of the known ways to do that, with two
exceptions that no grammar can be cleared of. Whether a token fits depends on the vocabulary:
whoever samples must look for an empty candidate set before accepting a token. And a text may
have ever more readings as it grows, which is probed only: `Matcher` counts them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from runtime_stub.engine.grammar_bounds import check_structure
from runtime_stub.engine.grammar_parser import Parser
from runtime_stub.engine.grammar_parts import Grammar
from runtime_stub.engine.matcher import Matcher
from runtime_stub.errors import PromptError

MAX_TEXT = 64 << 10
"""Longest grammar of a client, in bytes of UTF-8."""
MAX_PATHS = 1_000_000
"""Most ways to read a text of a token's length."""
_TOKEN, _TEXT = 40, 200
_MAX_PROBES = 10_000


def check(text: str) -> str:
    """`text`, once it is known to be a grammar that llama.cpp can be given.

    Raises PromptError, naming rule and position, for what llama.cpp would refuse and for
    what would abort or stall it. Two harmless things are refused besides, for they are
    mistakes: a rule that is defined twice, and an empty character class.
    """
    parse(text)
    return text


def parse(text: str, longest: int = MAX_TEXT, ambiguous: Collection[str] | None = None) -> Grammar:
    """The rules of `text` as llama.cpp would store them. Raises PromptError as `check` does.

    `ambiguous` names the rules in whose alternatives the same text may occur, if that is
    known: only those are then probed for the number of their readings.
    """
    try:
        size = len(text) if len(text) > longest else len(text.encode())
    except UnicodeEncodeError:
        raise PromptError("the grammar is not valid Unicode text") from None
    if size > longest:
        raise PromptError(f"the grammar is longer than {longest:,} bytes")
    if "\0" in text:
        raise PromptError("the grammar contains a zero byte")
    grammar = Parser(text).grammar()
    check_structure(grammar)
    _check_readings(grammar, ambiguous)
    return grammar


def _check_readings(grammar: Grammar, ambiguous: Collection[str] | None) -> None:
    """Refuse what has many more readings with each character.

    llama.cpp goes all the ways through a token that fits at first, and keeps all readings
    of a text. This is a probe, not a proof: it follows one text from each rule, and ends
    early in large grammars.
    """
    numbers = [
        number
        for number, rule in enumerate(grammar.rules)
        if number != grammar.root and (ambiguous is None or rule.name in ambiguous)
    ]
    work = 0
    for number in (grammar.root, *numbers):
        for length, most in ((_TOKEN, MAX_PATHS), (_TEXT, None)):
            ways, steps = Matcher(grammar, number).paths(length, most)
            if ways is None:
                raise grammar.rules[number].error("a text can be read in too many ways")
            work += steps
        if work > _MAX_PROBES:
            return


def quote(text: str) -> str:
    """`text` as a GBNF literal."""
    return f'"{"".join(_in_literal(character) for character in text)}"'


def quote_class(ranges: Sequence[tuple[int, int]]) -> str:
    """A GBNF character class that matches the code points in `ranges`."""
    pieces = [
        _in_class(low) if low == high else f"{_in_class(low)}-{_in_class(high)}"
        for low, high in ranges
    ]
    return f"[{''.join(pieces)}]"


def choice(alternatives: Sequence[str]) -> str:
    """One GBNF item that matches any of `alternatives`, which are GBNF themselves."""
    return alternatives[0] if len(alternatives) == 1 else f"({' | '.join(alternatives)})"


def _in_literal(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    code = ord(character)
    return f"\\x{code:02X}" if code < 0x20 or code == 0x7F else character


def _in_class(code: int) -> str:
    if code < 0x80:
        character = chr(code)
        return character if character.isalnum() or character in " _.,:;/+" else f"\\x{code:02X}"
    return f"\\u{code:04X}" if code <= 0xFFFF else f"\\U{code:08X}"
