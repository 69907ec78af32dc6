"""Two grammars in one: an answer that follows the one or the other."""

from __future__ import annotations

import re

_PIECE = re.compile(
    r"""
      "(?:[^"\\]|\\.)*"      # a text
    | \[(?:[^\]\\]|\\.)*\]   # a class of characters
    | \#[^\r\n]*             # a comment
    | !?<[^>]*>              # a token
    | \{[^}]*\}              # numbers of repetitions
    | (?P<name>[a-zA-Z0-9-]+)
    """,
    re.VERBOSE,
)


def either(first: str, second: str) -> str:
    """The grammar of all that fits one of two sound grammars, whatever their rules are called."""
    return f"root ::= a-root | b-root\n{_named(first, 'a-')}\n{_named(second, 'b-')}"


def _named(grammar: str, prefix: str) -> str:
    return _PIECE.sub(lambda piece: (prefix if piece["name"] else "") + piece[0], grammar)
