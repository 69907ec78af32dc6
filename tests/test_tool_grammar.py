from __future__ import annotations

import functools
import json
from dataclasses import replace
from typing import Any

import pytest

from runtime_stub.engine import families
from runtime_stub.engine.families import Family
from runtime_stub.engine.frames import Call, write_calls
from runtime_stub.engine.grammar import parse as parse_grammar
from runtime_stub.engine.grammar_builder import MAX_TEXT
from runtime_stub.engine.grammar_parts import Grammar
from runtime_stub.engine.matcher import Matcher
from runtime_stub.engine.parse import AnswerParser, Content, ToolCallArguments, ToolCallStart
from runtime_stub.engine.tool_grammar import ToolGrammar, tool_grammar
from runtime_stub.errors import PromptError

FAMILIES = [
    *(value for value in vars(families).values() if isinstance(value, Family)),
    replace(families.MISTRAL, style="named", listed=False),
    replace(families.DEEPSEEK, style="plain"),
]
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "unit": {"enum": ["C", "F"]},
        "exact": {"type": "boolean"},
        "spots": {"type": "array", "items": {"type": "number"}},
    },
    "required": ["city", "days"],
}
ALL = {"city": "Åre <b>", "days": 3, "unit": "C", "exact": True, "spots": [1.5, 2]}
FEW = {"city": "x", "days": -1, "exact": False}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "now"}},
    {
        "type": "function",
        "function": {
            "name": "maybe",
            "parameters": {
                "type": "object",
                "properties": {"a": {"$ref": "#/$defs/n"}, "b": {"type": "string"}},
                "$defs": {"n": {"type": "integer"}},
            },
        },
    },
]
named = pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f"{f.name}{f.style}")


@functools.cache
def parsed(grammar: str) -> Grammar:
    # Its readings have been probed when it was built.
    return parse_grammar(grammar, 2 * MAX_TEXT, ambiguous=())


@functools.cache
def make(family: Family, **options: Any) -> ToolGrammar:
    return tool_grammar(family, TOOLS, **{"required": True, **options})


def fits(made: ToolGrammar, text: str) -> bool:
    matcher = Matcher(parsed(made.grammar))
    return matcher.accept(text, 100) and matcher.complete


def read(family: Family, text: str, **options: Any) -> list[Call]:
    schemas = {tool["function"]["name"]: tool["function"].get("parameters", {}) for tool in TOOLS}
    parser = AnswerParser(family, tools=True, whole_calls=True, schemas=schemas, **options)
    pieces = [*parser.feed(text), *parser.finish()]
    assert not any(isinstance(piece, Content) for piece in pieces)
    names = [piece.name for piece in pieces if isinstance(piece, ToolCallStart)]
    texts = [piece.text for piece in pieces if isinstance(piece, ToolCallArguments)]
    return [Call(name, json.loads(text)) for name, text in zip(names, texts, strict=True)]


@named
def test_what_is_written_is_read(family: Family) -> None:
    calls = [Call("weather", ALL), Call("now", {}), Call("maybe", {"b": "1"})]
    if family.syntax in {"llama", "harmony", "kimi"}:
        calls = calls[:1]
    assert read(family, write_calls(family, calls)) == calls


@named
def test_grammar_takes_calls_that_are_read(family: Family) -> None:
    made = make(family)
    assert made.triggers == ()
    for call in (
        Call("weather", ALL), Call("weather", FEW), Call("now", {}),
        Call("maybe", {}), Call("maybe", {"a": 5}), Call("maybe", {"b": "t"}),
    ):  # fmt: skip
        text = write_calls(family, [call])
        assert fits(made, text), text
        assert read(family, text) == [call]
    for text in ("", "Hello.", write_calls(family, [Call("other", {})])):
        assert not fits(made, text), text
    assert not fits(made, write_calls(family, [Call("weather", {"city": "x"})]))
    assert not fits(made, write_calls(family, [Call("weather", {**FEW, "days": "x"})]))


@named
def test_several_calls(family: Family) -> None:
    text = write_calls(family, [Call("now", {}), Call("weather", FEW)])
    single = family.syntax in {"llama", "harmony", "kimi"}
    assert fits(make(family), text) == (not single)
    assert not fits(make(family, parallel=False), text)


@named
def test_named_function(family: Family) -> None:
    made = make(family, required=False, name="now")
    assert made.triggers == ()
    assert fits(made, write_calls(family, [Call("now", {})]))
    assert not fits(made, write_calls(family, [Call("maybe", {})]))


@named
def test_reasoning_before_a_call(family: Family) -> None:
    call = [Call("now", {})]
    opener, closer = family.reasoning[0]
    between = "<|start|>assistant" if family.syntax == "harmony" else "\n\n"
    text = f"Hm <thi{closer[:-1]} {closer}{between}{write_calls(family, call)}"
    made = make(family, reasoning="open")
    assert fits(made, text)
    assert not fits(made, write_calls(family, call))
    assert read(family, text, reasoning_open=True) == call
    made = make(family, reasoning="optional")
    assert fits(made, opener + text)
    assert fits(made, write_calls(family, call))
    assert read(family, opener + text) == call
    made = make(family)
    assert not fits(made, opener + text)


@named
def test_triggers(family: Family) -> None:
    made = make(family, required=False)
    (trigger,) = made.triggers
    text = write_calls(family, [Call("now", {})])
    assert text.startswith(trigger)
    assert fits(made, text)


def test_nested_values_of_gemma() -> None:
    family = families.GEMMA_4
    schema = {"type": "object", "properties": {"v": {"type": "object"}}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
    call = Call("f", {"v": {"a": [1, "x", {"b": None}], "c": {}}})
    text = write_calls(family, [call])
    assert fits(tool_grammar(family, tools, required=True), text)
    assert read(family, text) == [call]


@pytest.mark.parametrize(
    ("tools", "name"),
    [([], None), (TOOLS, "other"), ([{"function": {"name": "a b"}}], None), ([{}], None)],
)
def test_nothing_to_call(tools: list[dict[str, Any]], name: str | None) -> None:
    with pytest.raises(PromptError):
        tool_grammar(families.HERMES, tools, required=True, name=name)
