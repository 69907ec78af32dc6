"""Grammars for answers that must be tool calls, in the syntax of a family.

What fits the grammar is a call that `parse` reads, of a function that was offered, with
arguments by its schema. Two syntaxes weaken the last: where texts stand bare between tags,
their pattern and length are left open, and nested values in Gemma's notation are of any type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from runtime_stub.engine.calls import NAME
from runtime_stub.engine.families import Family
from runtime_stub.engine.frames import Frame, frame
from runtime_stub.engine.grammar import quote, quote_class
from runtime_stub.engine.grammar_builder import NUMBER
from runtime_stub.engine.literals import json_kinds
from runtime_stub.engine.schema import GrammarBuilder
from runtime_stub.errors import PromptError

Thinking = Literal["none", "optional", "open"]
_MEMBERS = ("tagged", "keyed", "python", "gemma")
_REFERENCES = ("$defs", "definitions")


@dataclass(frozen=True)
class ToolGrammar:
    """What an answer, or its end, has to look like."""

    grammar: str
    triggers: tuple[str, ...] = ()
    """The grammar holds from where one of these first stands in the answer, with it. With
    none, it holds from the start."""


def tool_grammar(
    family: Family,
    tools: Sequence[Mapping[str, Any]],
    *,
    required: bool,
    name: str | None = None,
    parallel: bool = True,
    reasoning: Thinking = "none",
) -> ToolGrammar:
    """The grammar for calls of `tools`, in OpenAI's shape.

    `required` or a `name`: the answer is a call, of that function. Otherwise only calls that
    the model begins are held to it. `reasoning`: whether the answer may begin with some, or
    goes on with what the prompt opened. Raises PromptError when there is nothing to call.
    """
    functions = [tool.get("function") or {} for tool in tools]
    if name is not None:
        functions = [function for function in functions if function.get("name") == name]
    if not functions:
        raise PromptError(
            "tool_choice asks for a tool, but none is offered"
            if name is None
            else f"tool_choice asks for {name}, which is not among the tools"
        )
    builder = GrammarBuilder()
    writer = _Writer(family, builder)
    block = writer.block(functions, parallel=parallel)
    if required or name is not None:
        return ToolGrammar(builder.text(writer.reasoning(reasoning) + block))
    made = frame(family)
    trigger = family.openers[0] if family.openers else made.head
    if family.syntax == "llama":
        trigger = made.head
    return ToolGrammar(builder.text(block), (trigger,))


class _Writer:
    def __init__(self, family: Family, builder: GrammarBuilder) -> None:
        self._family = family
        self._builder = builder
        self._frame: Frame = frame(family)
        self._until: dict[str, str] = {}
        self._gemma = ""

    def block(self, functions: Sequence[Mapping[str, Any]], *, parallel: bool) -> str:
        """One call or several, with all that stands around them."""
        made = self._frame
        calls = [
            self._builder.add_rule(f"call-{number}", self._call(number, function))
            for number, function in enumerate(functions)
        ]
        call = self._builder.add_rule("call", " | ".join(calls))
        more = f" ({_literal(made.separator)} {call})*" if parallel and not made.single else ""
        return f"{_literal(made.begin)} {call}{more} {_literal(made.end)}".strip()

    def reasoning(self, thinking: Thinking) -> str:
        """What may stand before the calls."""
        if thinking == "none":
            return ""
        opener, closer = self._family.reasoning[0]
        harmony = self._family.syntax == "harmony"
        after = _literal("<|start|>assistant") if harmony else "[ \\n]? [ \\n]?"
        rest = f"{self._text_until(closer)} {after} "
        return rest if thinking == "open" else f"({_literal(opener)} {rest})? "

    def _call(self, number: int, function: Mapping[str, Any]) -> str:
        name = function.get("name")
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise PromptError("a tool's function name must be of letters, digits, _ and -")
        made = self._frame
        schema = function.get("parameters")
        if not isinstance(schema, Mapping) or not schema:
            schema = {"type": "object", "properties": {}}
        if self._family.syntax in _MEMBERS and self._family.style != "json":
            arguments = self._members(number, schema)
        else:
            arguments = self._builder.add_schema(f"arguments-{number}", schema)
        before, after = _literal(made.head + name + made.between), _literal(made.tail)
        return f"{before} {arguments} {after}".strip()

    # Syntaxes that write members one by one.

    def _members(self, number: int, schema: Mapping[str, Any]) -> str:
        properties = schema.get("properties")
        if not isinstance(properties, Mapping):
            return ""
        wanted = schema.get("required")
        needed = set(wanted) if isinstance(wanted, list) else set()
        shared = {key: schema[key] for key in _REFERENCES if key in schema}
        required: list[str] = []
        optional: list[str] = []
        for place, (key, value) in enumerate(properties.items()):
            value_schema = {**shared, **value} if isinstance(value, Mapping) else {}
            label = f"member-{number}-{place}"
            rule = self._builder.add_rule(label, self._member(label, key, value_schema))
            (required if key in needed else optional).append(rule)
        separator = {"python": ", ", "gemma": ","}.get(self._family.syntax, "")
        return _sequence(required, optional, _literal(separator))

    def _member(self, label: str, key: str, schema: Mapping[str, Any]) -> str:
        before, after = {
            "tagged": (f"<parameter={key}>\n", "\n</parameter>\n"),
            "keyed": (f"<arg_key>{key}</arg_key>\n<arg_value>", "</arg_value>\n"),
            "python": (f"{key}=", ""),
            "gemma": (f"{key}:", ""),
        }[self._family.syntax]
        if self._family.syntax == "python":
            return f"{_literal(before)} {self._builder.add_schema(f'{label}-value', schema)}"
        if self._family.syntax == "gemma":
            return f"{_literal(before)} {self._gemma_value(label, schema)}"
        kinds = json_kinds(schema)
        choices = _texts(schema)
        if choices:
            value = f"({' | '.join(_literal(choice) for choice in choices)})"
            return f"{_literal(before)} {value} {_literal(after)}"
        if not kinds or "string" in kinds:
            return f"{_literal(before)} {self._text_until(after)}"
        value = self._builder.add_schema(f"{label}-value", schema)
        return f"{_literal(before)} {value} {_literal(after)}"

    def _gemma_value(self, label: str, schema: Mapping[str, Any]) -> str:
        mark = self._family.quote
        choices = _texts(schema)
        kinds = json_kinds(schema)
        if choices:
            return f"({' | '.join(_literal(mark + choice + mark) for choice in choices)})"
        if kinds == {"string"}:
            return f"{_literal(mark)} {self._text_until(mark)}"
        if kinds and kinds <= {"number", "integer", "boolean", "null"}:
            return self._builder.add_schema(f"{label}-value", schema)
        return self._any_gemma_value()

    def _any_gemma_value(self) -> str:
        if not self._gemma:
            self._gemma = value = self._builder.reserve("gemma-value")
            mark = _literal(self._family.quote)
            text = self._text_until(self._family.quote)
            member = f'[a-zA-Z_] [a-zA-Z0-9_]{{0,63}} ":" {value}'
            scalar = f'{mark} {text} | {NUMBER} | "true" | "false" | "null"'
            array = f'"[" ({value} ("," {value})*)? "]"'
            nested = f'"{{" ({member} ("," {member})*)? "}}"'
            self._builder.define(value, f"{scalar} | {array} | {nested}")
        return self._gemma

    def _text_until(self, end: str) -> str:
        """A rule for text up to and with the first `end`.

        One rule for each character of `end` that has been matched, as in the search of Knuth,
        Morris and Pratt: the notation has no other way to say "anything but this text".
        """
        if end in self._until:
            return self._until[end]
        names = [self._builder.reserve("until") for _ in end]
        self._until[end] = names[0]
        for matched, name in enumerate(names):
            reached = {letter: _matched(end, end[:matched] + letter) for letter in sorted(set(end))}
            # Few ways, since llama.cpp tries each with every token of the vocabulary.
            onwards = {letter: length for letter, length in reached.items() if length}
            others = quote_class([(ord(letter), ord(letter)) for letter in onwards])
            ways = [f"[^{others[1:]} {names[0]}"]
            for letter, length in onwards.items():
                rest = f" {names[length]}" if length < len(end) else ""
                ways.append(_literal(letter) + rest)
            self._builder.define(name, " | ".join(ways))
        return names[0]


def _matched(wanted: str, text: str) -> int:
    """How many characters at the end of `text` begin `wanted`."""
    return next(
        length
        for length in range(min(len(wanted), len(text)), -1, -1)
        if text.endswith(wanted[:length])
    )


def _sequence(required: Sequence[str], optional: Sequence[str], separator: str) -> str:
    """Members in order: all that are required, any that are optional."""

    def more(rules: Sequence[str]) -> str:
        return "".join(f" ({separator} {rule})?" for rule in rules)

    if required:
        return f" {separator} ".join(required) + more(optional)
    if not optional:
        return ""
    if not separator:
        return more(optional).strip()
    ways = [rule + more(optional[place + 1 :]) for place, rule in enumerate(optional)]
    return f"({' | '.join(ways)})?"


def _texts(schema: Mapping[str, Any]) -> list[str]:
    """The texts that the schema lists, if it allows nothing else."""
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(values, list) and values and all(isinstance(value, str) for value in values):
        return values
    return []


def _literal(text: str) -> str:
    return quote(text) if text else ""
