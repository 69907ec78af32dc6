from __future__ import annotations

import pytest

from runtime_stub.engine.either import either
from runtime_stub.engine.grammar import parse
from runtime_stub.engine.grammar_builder import JSON_OBJECT
from runtime_stub.engine.matcher import Matcher

TRICKY = r"""root ::= "rest \" root" [\]a-root]{2,3} rest # root
rest ::= ("root" | [^"])? """


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ('rest " root]aroot', True),
        ('rest " rootaa', True),
        ("yes", True),
        ('{"a": [1, {"b": null}]}', True),
        ("", False),
        ("rest", False),
        ("yesyes", False),
    ],
)
def test_either(text: str, fits: bool) -> None:
    grammar = either(either(TRICKY, 'root ::= rest\nrest ::= "yes"'), JSON_OBJECT)
    matcher = Matcher(parse(grammar))
    assert (matcher.accept(text) and matcher.complete) == fits


def test_tokens_keep_their_names() -> None:
    assert "b-root ::= <[12]> !<|root|>" in either("root ::= .", "root ::= <[12]> !<|root|>")
