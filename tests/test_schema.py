from __future__ import annotations

import json
import math
import random
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from native_grammar import run_natively

from runtime_stub.engine.grammar import parse
from runtime_stub.engine.grammar_parts import Grammar, Terminal
from runtime_stub.engine.matcher import Matcher
from runtime_stub.engine.schema import GrammarBuilder, grammar_for
from runtime_stub.errors import PromptError

LONGEST = 4 << 20
LAYOUTS: list[dict[str, Any]] = [{"separators": (",", ":")}, {}, {"indent": 2}]


def fits(grammar: str, value: object) -> bool:
    """Whether the grammar generates `value`, in each of the usual layouts or in none."""
    parsed = parse(grammar, LONGEST, ())
    found = set()
    for layout in LAYOUTS:
        matcher = Matcher(parsed)
        text = json.dumps(value, ensure_ascii=False, **layout)
        found.add(matcher.accept(text) and matcher.complete)
    assert len(found) == 1
    return found.pop()


def walk(grammar: Grammar, choose: random.Random, length: int = 400) -> str | None:
    """A text that the grammar generates, or None if it gets long."""
    text: list[str] = []
    stack: list[Any] = [grammar.root]
    while stack:
        element = stack.pop()
        if isinstance(element, int):
            stack.extend(reversed(choose.choice(grammar.rules[element].alternatives)))
        else:
            assert isinstance(element, Terminal)
            low, high = choose.choice(element.matched)
            text.append(chr(choose.randint(low, min(high, low + 200))))
        if len(text) > length or len(stack) > length:
            return None
    return "".join(text)


PERSON = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Person",
    "type": "object",
    "properties": {
        "name": {"type": "string", "description": "Full name", "minLength": 1},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "email": {"anyOf": [{"type": "string", "format": "email"}, {"type": "null"}]},
        "friends": {"type": "array", "items": {"$ref": "#/$defs/Friend"}, "default": []},
    },
    "required": ["name", "age", "email", "friends"],
    "additionalProperties": False,
    "$defs": {
        "Friend": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "best": {"type": "boolean"}},
            "required": ["name", "best"],
            "additionalProperties": False,
        }
    },
}
TREE = {
    "type": "object",
    "properties": {"v": {"type": "number"}, "left": {"$ref": "#"}, "right": {"$ref": "#"}},
    "required": ["v"],
}
AB = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}}


def closed(**properties: object) -> dict[str, object]:
    return {"properties": properties, "required": list(properties), "additionalProperties": False}


CASES: list[tuple[object, list[object], list[object]]] = [
    (True, [None, 1, 'é\n"\\\u0007😀', {"a": [1.5, {}, []]}, False, "\x7f/"], []),
    ({}, [None, []], []),
    ({"description": "any"}, [0], []),
    ({"type": "null"}, [None], [0, False]),
    ({"type": "boolean"}, [True, False], [None, 0]),
    ({"type": "integer"}, [0, -7, 10**18], [1.5, "1"]),
    ({"type": "number"}, [0, -7, 1.25, 1e-7, 2e22], ["1"]),
    ({"type": ["string", "null"]}, ["a", None], [1]),
    ({"type": ["integer", "number"]}, [1, 1.5], [None]),
    ({"type": "string", "nullable": True}, ["a", None], [1]),
    ({"type": "string", "maxLength": 3}, ["", "aé😀"], ["abcd"]),
    ({"type": "string", "minLength": 2}, ["ab", 'x"\\'], ["a"]),
    ({"minLength": 500, "maxLength": 70_000}, ["a" * 500, "b" * 900], ["a" * 499]),
    ({"maxLength": 1000}, ["", "a" * 1000, "a" * 511], ["a" * 1001]),
    ({"type": "string", "pattern": "^[a-z]+\\d{2,3}$"}, ["ab12", "a123"], ["12", "a1", "a1234"]),
    ({"pattern": "^a|b$"}, ["abc", "cab", "a"], ["ca", ""]),
    ({"pattern": "b+"}, ["abc", "b"], ["ac"]),
    ({"pattern": "^(a+)+$"}, ["aaa"], ["", "ab"]),
    ({"pattern": "^(a*)*$"}, ["aaa", ""], ["ab"]),
    ({"pattern": "^.\\.\\S$", "type": "string"}, ['".\\', "é.x"], ["\n.x", "a. "]),
    ({"pattern": '^["\\\\\\n\\x01]{2}$'}, ['"\\', '\n"'], ["a"]),
    ({"pattern": "^\\x01$"}, ["\x01"], ["\x02"]),
    ({"pattern": "^(?:(?<y>x|[^\\W\\d])-?)*?$"}, ["a-b", ""], ["1", "--"]),
    ({"pattern": "^[a-c]*$", "minLength": 2, "maxLength": 3}, ["ab", "abc"], ["a", "abca", "xx"]),
    ({"format": "date"}, ["2024-12-31", "2023-02-28"], ["2024-13-01", "2023-02-30", "x"]),
    ({"format": "time"}, ["23:59:59Z", "01:02:03.25+01:00"], ["24:00:00Z", "01:02:03"]),
    ({"format": "date-time"}, ["2024-01-01T00:00:00Z"], ["2024-01-01 00:00:00Z"]),
    ({"format": "duration"}, ["P1D", "PT5M", "P3W", "P1Y2M3DT4H"], ["P", "PT", "1D"]),
    ({"format": "uuid"}, ["123e4567-e89b-12d3-a456-426614174000"], ["123"]),
    ({"format": "ipv4"}, ["255.1.0.99"], ["256.1.1.1", "01.1.1.1"]),
    ({"format": "ipv6"}, ["0:0:0:0:0:ffff:1:2"], ["1:2"]),
    ({"format": "email"}, ["a.b@example.org"], ["a@b@c", "ab"]),
    ({"format": "hostname"}, ["a.example.org"], ["-a"]),
    ({"format": "uri"}, ["https://example.org/a?b".partition("?")[0]], ["example"]),
    ({"enum": ["a", "ab", 1, None, {"x": [1]}, "é"]}, ["a", "ab", 1, None, "é"], ["abc", 2]),
    ({"type": "string", "enum": ["a", 1]}, ["a"], [1]),
    ({"const": {"a": 'q"'}}, [], [{"a": 1}]),
    ({"const": 5, "type": "integer"}, [5], [6]),
    ({"minimum": 3, "type": "integer"}, [3, 10, 99999], [2, -3, 0]),
    ({"exclusiveMinimum": 3, "type": "integer"}, [4], [3]),
    ({"minimum": -12, "maximum": 7, "type": "integer"}, [-12, -9, 0, 7], [-13, 8, -20, 10]),
    ({"maximum": -5, "type": "integer"}, [-5, -50], [-4, 0, 5]),
    ({"minimum": 1.2, "exclusiveMaximum": 4, "type": "integer"}, [2, 3], [1, 4]),
    ({"minimum": 5, "exclusiveMinimum": True, "type": "integer"}, [6], [5]),
    ({"minimum": 0, "maximum": 1, "type": "number"}, [0, 1, 0.5, 1.0], [1.01, -0.5, 2]),
    ({"exclusiveMinimum": 0, "type": "number"}, [0.001, 7], [0, 0.0, -1]),
    ({"exclusiveMaximum": -0.25, "type": "number"}, [-0.26, -9], [-0.25, 0, 1]),
    ({"minimum": -1.5, "exclusiveMaximum": 2.25, "type": "number"}, [-1.5, 0, 2.2, 2], [2.25, -2]),
    ({"minimum": 2.5, "maximum": 2.75, "type": "number"}, [2.5, 2.6, 2.75], [2, 2.8, 3, 2.49]),
    ({"type": "array"}, [[], [1, "a", [None]]], [{}]),
    ({"items": {"type": "integer"}}, [[], [1], [1, 2]], [["a"], [1, "a"]]),
    (
        {"items": {"type": "integer"}, "minItems": 2, "maxItems": 3},
        [[1, 2], [1, 2, 3]],
        [[1], [1] * 4],
    ),
    (
        {"minItems": 300, "maxItems": 10**9, "items": {"const": 1}},
        [[1] * 300, [1] * 333],
        [[1] * 299],
    ),
    ({"maxItems": 0, "type": "array"}, [[]], [[1]]),
    ({"maxItems": 1, "items": {"const": 1}}, [[], [1]], [[1, 1]]),
    ({"prefixItems": [{"const": 1}, {"const": "a"}]}, [[], [1], [1, "a"]], [["a"], [1, "a", 2]]),
    (
        {"prefixItems": [{"const": 1}], "items": {"const": 2}, "minItems": 2},
        [[1, 2], [1, 2, 2]],
        [[1], [2, 2]],
    ),
    ({"items": [{"const": 1}, {"const": 2}], "minItems": 2}, [[1, 2]], [[1]]),
    ({"prefixItems": [{"const": 1}], "items": False, "minItems": 1}, [[1]], [[], [1, 1]]),
    ({"type": "object"}, [{}, {"a": {"b": 1}}], [[]]),
    (
        AB,
        [{}, {"a": 1}, {"b": "x"}, {"a": 1, "b": "x"}],
        [{"b": "x", "a": 1}, {"c": 1}, {"a": "x"}],
    ),
    ({**AB, "required": ["b"]}, [{"b": "x"}, {"a": 1, "b": "x"}], [{}, {"a": 1}]),
    (
        {**AB, "additionalProperties": {"const": 0}},
        [{"c": 0}, {"a": 1, "ab": 0, "": 0}],
        [{"a": 0, "b": 0}, {"c": 1}],
    ),
    ({"additionalProperties": {"type": "integer"}}, [{}, {"x": 1, "y": 2}], [{"x": "1"}]),
    ({"properties": {"a": False, 'q"\n': True}}, [{'q"\n': 1}, {}], [{"a": 1}]),
    ({"required": ["k"], "properties": {"a": {}}}, [{"a": 1, "k": 2}], [{"a": 1}]),
    (
        PERSON,
        [{"name": "Ü", "age": 7, "email": None, "friends": [{"name": "", "best": True}]}],
        [{"name": "Ü", "age": 7}, {"name": "", "age": 7, "email": None, "friends": []}],
    ),
    (
        TREE,
        [{"v": 1, "left": {"v": 2, "right": {"v": 3}}, "right": {"v": 0}}],
        [{"left": {"v": 1}}],
    ),
    ({"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 1}]}, [1, "a"], ["ab", None]),
    (
        {
            "type": "object",
            "properties": {"a": {}, "b": {}},
            "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
        },
        [{"a": 1}, {"b": 1}],
        [{}],
    ),
    (
        {
            "oneOf": [
                closed(kind={"const": "x"}, n={"type": "integer"}),
                closed(kind={"const": "y"}),
            ],
            "discriminator": {"propertyName": "kind"},
        },
        [{"kind": "x", "n": 1}, {"kind": "y"}],
        [{"kind": "x"}],
    ),
    (
        {
            "allOf": [
                AB,
                {"required": ["a"], "properties": {"a": {"minimum": 5}, "c": {"const": 1}}},
            ]
        },
        [{"a": 5}, {"a": 6, "b": "", "c": 1}],
        [{"a": 4}, {"b": ""}],
    ),
    (
        {
            "allOf": [{"$ref": "#/definitions/d"}],
            "maximum": 9,
            "definitions": {"d": {"type": ["integer", "null"], "minimum": 3}},
        },
        [3, 9, None],
        [2, 10],
    ),
    (
        {"allOf": [{**AB, "additionalProperties": False}, {"properties": {"z": {}}}]},
        [{"a": 1}],
        [{"z": 1}],
    ),
    (
        {"$ref": "#/$defs/a~1b%20c", "$defs": {"a/b c": {"$ref": "#/$defs/x"}, "x": {"const": 1}}},
        [1],
        [2],
    ),
    (
        {"$ref": "#/$defs/x", "maximum": 4, "$defs": {"x": {"type": "integer", "minimum": 3}}},
        [3, 4],
        [5, 2],
    ),
    ({"anyOf": [{"type": "array", "items": {"$ref": "#"}}, {"const": 0}]}, [0, [0, [0], []]], [1]),
]


@pytest.mark.parametrize(("schema", "valid", "invalid"), CASES)
def test_cases(schema: object, valid: list[object], invalid: list[object]) -> None:
    grammar = grammar_for(schema)
    assert [value for value in valid if not fits(grammar, value)] == []
    assert [value for value in invalid if fits(grammar, value)] == []


def test_const_is_written_compactly() -> None:
    matcher = Matcher(parse(grammar_for({"const": {"a": 'q"', "b": [1, None]}}), LONGEST))
    assert matcher.accept('{"a":"q\\"","b":[1,null]}')
    assert matcher.complete


def test_blanks_are_bounded() -> None:
    grammar = parse(grammar_for(AB), LONGEST)
    assert Matcher(grammar).accept('{\n    "a": 1,\n\t\t"b": "x"\n}')
    for text in ("{  ", "{\n\n", "{\n" + " " * 33, '{"a" :', '{"a":1 ,', "{} "):
        assert not Matcher(grammar).accept(text)


NESTED: dict[str, Any] = {}
for _ in range(10_000):
    NESTED = {"items": NESTED}
DOUBLING = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(30)}

BAD: list[tuple[object, str]] = [
    (3, "must be an object"),
    (False, "nothing is allowed"),
    ({"type": "text"}, '"type" must be .*#/type'),
    ({"properties": {"a": {"not": {}}}}, 'keyword "not" is not supported .*#/properties/a/not'),
    ({"minProperties": 1}, '"minProperties"'),
    ({"patternProperties": {}}, '"patternProperties"'),
    ({"type": "array", "uniqueItems": True}, '"uniqueItems"'),
    ({"type": "number", "multipleOf": 0.1}, '"multipleOf"'),
    ({"if": True}, '"if"'),
    ({"items": {"format": "iso"}}, 'format "iso" is not supported .*#/items/format'),
    ({"pattern": "^(?=a)"}, "group is not supported, at character 2 .*#/pattern"),
    ({"pattern": "a\\b"}, "escape is not supported"),
    ({"pattern": "(a"}, "is missing"),
    ({"pattern": "a)"}, "should end here"),
    ({"pattern": "[a"}, "is missing"),
    ({"pattern": "[b-a]"}, "range is not valid"),
    ({"pattern": "*"}, "nothing to repeat"),
    ({"pattern": "x^"}, "at the ends only"),
    ({"pattern": "^[^\\s\\S]$"}, "nothing matches"),
    ({"pattern": "^a$", "minLength": 2}, "nothing matches"),
    ({"pattern": "^a$", "format": "date"}, '"pattern" beside "format"'),
    ({"enum": []}, "no value is allowed"),
    ({"enum": [1], "type": "string"}, "no value is allowed"),
    ({"enum": ["a"], "minLength": 3}, '"minLength" is not supported beside'),
    ({"type": "integer", "minimum": 2, "maximum": 1}, "no number is within"),
    ({"type": "integer", "minimum": "2"}, "not a number .*#/minimum"),
    ({"type": "number", "minimum": 1e300}, "digits"),
    ({"minItems": 3, "maxItems": 2}, '"minItems" is above'),
    ({"minItems": -1}, "natural number"),
    ({"minLength": 1.5}, "natural number"),
    ({"items": False, "minItems": 1}, "number of items"),
    ({"properties": {"a": False}, "required": ["a"]}, "nothing is allowed .*#/properties/a"),
    ({"required": ["x"], "additionalProperties": False}, "nothing is allowed"),
    ({"properties": []}, '"properties" must be'),
    ({"anyOf": []}, '"anyOf" must be'),
    ({"anyOf": [{"type": "string"}, {"foo": 1}]}, '"foo" is not supported .*#/anyOf/1/foo'),
    ({"allOf": [{"type": "string"}, {"type": "null"}]}, "no type is allowed"),
    ({"allOf": [{"pattern": "a"}, {"pattern": "b"}]}, '"pattern" can\'t be combined'),
    ({"$ref": "http://example.org/x"}, '"\\$ref" is supported'),
    ({"$ref": "#/$defs/x"}, 'there is no "#/\\$defs/x"'),
    ({"$ref": "#"}, "leads back to itself"),
    (
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        "leads back",
    ),
    ({"allOf": [{"$ref": "#"}]}, "leads back to itself"),
    ({"anyOf": [{"$ref": "#"}, {"type": "null"}]}, "can begin with itself"),
    ({"const": "\ud800"}, "not valid Unicode"),
    ({"const": math.inf}, "not finite"),
    ({"const": {1, 2}}, "not JSON"),
    # Hostile.
    ({"anyOf": [closed(a={"$ref": "#"}), {**closed(a={"$ref": "#"}, b={})}]}, "too many ways"),
    (NESTED, "nests deeper"),
    ({"enum": list(range(100_000))}, "too large"),
    ({"enum": ["a" * 300_000]}, "too large"),
    ({"pattern": "^(a{0,4000}){0,4000}$"}, "too large"),
    ({"pattern": "^(.*a.{20})$"}, "too complex"),
    ({"pattern": "^(" * 40 + "a" + ")" * 40}, "at the ends only|nest deeper"),
    ({"pattern": "(" * 40 + "a" + ")" * 40}, "nest deeper"),
    ({"pattern": "a" * 5000}, "longer than"),
    ({"$defs": {**DOUBLING, "d30": {"minimum": 1}}, "$ref": "#/$defs/d0"}, "too complex"),
    ({"items": [{"pattern": f"^(.*a.{{9}}){n}$"} for n in range(400)]}, "too complex|too large"),
    ({"properties": {f"p{n}": {} for n in range(2000)}}, "chain of more than"),
]


@pytest.mark.parametrize(("schema", "message"), BAD)
def test_refused(schema: object, message: str) -> None:
    started = time.process_time()
    with pytest.raises(PromptError, match=message):
        grammar_for(schema)
    assert time.process_time() - started < 3


def test_builder_keeps_names_apart() -> None:
    builder = GrammarBuilder()
    first = builder.add_schema("get_weather", AB)
    second = builder.add_schema("get_weather", {"const": 1})
    third = builder.add_schema("json-ws", {"const": 2})
    assert len({first, second, third, "json-ws"}) == 4
    call = builder.add_rule("call", f'"<call>" {builder.add_choice("any", [first, second, third])}')
    grammar = parse(builder.text(f'{call} "!"'), LONGEST)
    for text in ('<call>{"a":1}!', "<call>1!", "<call>2!"):
        matcher = Matcher(grammar)
        assert matcher.accept(text)
        assert matcher.complete
    assert not Matcher(grammar).accept("<call>3")


# Schemas and instances of them, made up together.

names = st.text(st.sampled_from('ab"\\é\n '), max_size=3)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**6), 10**6),
    st.floats(-1e6, 1e6).map(lambda number: round(number, 6)),
    st.text(st.characters(codec="utf-8"), max_size=6),
)


@st.composite
def schemas(draw: st.DrawFn, depth: int = 3) -> tuple[dict[str, Any], Any]:
    """A schema, and an instance of it."""
    schema: dict[str, Any]
    value: Any
    kinds = ["enum", "string", "integer", "number", "simple"]
    kind = draw(st.sampled_from(kinds + ["object", "array", "anyOf", "tuple"] * (depth > 0)))
    if kind == "enum":
        values = draw(st.lists(scalars, min_size=1, max_size=4))
        return {"enum": values}, draw(st.sampled_from(values))
    if kind == "string":
        value = draw(st.text(st.characters(codec="utf-8"), max_size=8))
        low = draw(st.integers(0, len(value)))
        high = draw(st.integers(len(value), 400))
        return {"type": "string", "minLength": low, "maxLength": high}, value
    if kind == "integer":
        low, number, high = sorted(draw(st.tuples(*[st.integers(-5000, 5000)] * 3)))
        return {"type": "integer", "minimum": low, "maximum": high}, number
    if kind == "number":
        low, number, high = sorted(draw(st.tuples(*[st.integers(-5000, 5000)] * 3)))
        return {"type": "number", "minimum": low / 100, "maximum": high / 100}, number / 100
    if kind == "simple":
        value = draw(scalars)
        schema = {"type": "string"} if isinstance(value, str) else {}
        return schema, value
    if kind == "anyOf":
        options = draw(st.lists(schemas(depth - 1), min_size=1, max_size=3))
        return {"anyOf": [schema for schema, _ in options]}, draw(
            st.sampled_from([value for _, value in options])
        )
    if kind == "array":
        schema, value = draw(schemas(depth - 1))
        count = draw(st.integers(0, 4))
        low, high = draw(st.integers(0, count)), draw(st.integers(count, 1000))
        return {"type": "array", "items": schema, "minItems": low, "maxItems": high}, [
            value
        ] * count
    if kind == "tuple":
        parts = draw(st.lists(schemas(depth - 1), min_size=1, max_size=3))
        return {"prefixItems": [schema for schema, _ in parts]}, [value for _, value in parts]
    members = draw(st.dictionaries(names, schemas(depth - 1), max_size=4))
    needed = [name for name in members if draw(st.booleans())]
    present = {n: v for n, (_, v) in members.items() if n in needed or draw(st.booleans())}
    schema = {"type": "object", "properties": {n: s for n, (s, _) in members.items()}}
    schema["required"] = needed
    if draw(st.booleans()):
        schema["additionalProperties"] = {"type": "integer"}
        present |= {name: 1 for name in draw(st.lists(names, max_size=2)) if name not in members}
    elif not members:
        schema["additionalProperties"] = False
    return schema, present


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(schemas())
def test_instances_fit_and_walks_are_instances(made: tuple[dict[str, Any], Any]) -> None:
    schema, value = made
    grammar = grammar_for(schema)
    assert fits(grammar, value)
    parsed = parse(grammar, LONGEST, ())
    choose = random.Random(1)  # noqa: S311
    for _ in range(3):
        text = walk(parsed, choose)
        if text is not None:
            assert is_valid(json.loads(text), schema), text


def is_valid(value: Any, schema: dict[str, Any]) -> bool:
    """A validator of what `schemas` makes."""
    if "enum" in schema:
        return any(json.dumps(value) == json.dumps(other) for other in schema["enum"])
    if "anyOf" in schema:
        return any(is_valid(value, option) for option in schema["anyOf"])
    kind = schema.get("type")
    if kind == "string":
        return isinstance(value, str) and schema.get("minLength", 0) <= len(value) <= schema.get(
            "maxLength", len(value)
        )
    if kind in ("integer", "number"):
        fitting = int if kind == "integer" else (int, float)
        return isinstance(value, fitting) and schema["minimum"] <= value <= schema["maximum"]
    if kind == "array":
        return (
            isinstance(value, list)
            and schema["minItems"] <= len(value) <= schema["maxItems"]
            and all(is_valid(item, schema["items"]) for item in value)
        )
    if "prefixItems" in schema:
        return isinstance(value, list) and all(
            is_valid(item, part) for item, part in zip(value, schema["prefixItems"], strict=False)
        )
    if kind == "object":
        others = schema.get("additionalProperties", False)
        return (
            isinstance(value, dict)
            and set(schema["required"]) <= set(value)
            and all(
                is_valid(item, schema["properties"][name])
                if name in schema["properties"]
                else others is not False and isinstance(item, int)
                for name, item in value.items()
            )
        )
    return True


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    *[st.integers(-3000, 3000).map(lambda n: n / 100)] * 3,
    st.booleans(),
    st.booleans(),
    st.sampled_from(["integer", "number"]),
)
def test_bounds_are_exact(
    low: float, high: float, tried: float, low_open: bool, high_open: bool, kind: str
) -> None:
    schema = {"type": kind, ("exclusiveMinimum" if low_open else "minimum"): low}
    schema["exclusiveMaximum" if high_open else "maximum"] = high
    inner = round(tried) if kind == "integer" else tried
    for number in (inner, low, high, round(low), round(high)):
        if kind == "integer" and number != int(number):
            continue
        value = int(number) if number == int(number) else number
        expected = (low < value if low_open else low <= value) and (
            value < high if high_open else value <= high
        )
        try:
            found = fits(grammar_for(schema), value)
        except PromptError:
            found = False
        assert found == expected, value


def test_grammars_run_natively() -> None:
    schemas = [PERSON, TREE, *(schema for schema, _, _ in CASES)]
    lines = run_natively([grammar_for(schema) for schema in schemas], steps=2)
    assert len(lines) == len(schemas)
    assert [line for line in lines if line == "refused" or line.startswith("dead")] == []
