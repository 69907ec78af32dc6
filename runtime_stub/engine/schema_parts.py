"""A JSON Schema as a document: its keywords, its references, and what allOf makes of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn
from urllib.parse import unquote

from runtime_stub.errors import PromptError

MAX_NODES = 20_000
MAX_DEPTH = 100
MAX_CHARACTERS = 256 << 10

TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
ANNOTATIONS = frozenset(
    (
        *("$anchor", "$comment", "$defs", "$id", "$schema"),
        *("contentEncoding", "contentMediaType", "default", "definitions", "deprecated"),
        *("description", "discriminator", "example", "examples", "externalDocs"),
        *("id", "readOnly", "strict", "title", "writeOnly"),
        *("xml",),
    )
)
"""Keywords that say nothing of what an instance looks like."""
OF_TYPE = {
    "object": ("properties", "required", "additionalProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems", "uniqueItems"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
KEYWORDS = frozenset(keyword for keywords in OF_TYPE.values() for keyword in keywords) | {
    *("$ref", "allOf", "anyOf", "oneOf", "type", "enum", "const", "nullable")
}
_LARGEST = ("minimum", "exclusiveMinimum", "minLength", "minItems")
_SMALLEST = ("maximum", "exclusiveMaximum", "maxLength", "maxItems")

Schema = Mapping[str, Any]


def fail(what: str, where: str) -> NoReturn:
    raise PromptError(f"the JSON schema can't be used: {what} (at {where or 'its root'})")


def below(where: str, *steps: str | int) -> str:
    """The JSON pointer of something below `where`."""
    names = (str(step).replace("~", "~0").replace("/", "~1")[:80] for step in steps)
    return "/".join((where or "#", *names))


def measure(schema: object) -> None:
    """Raises PromptError when `schema` is too large, too deep, or not JSON."""
    nodes = characters = 0
    waiting: list[tuple[object, int]] = [(schema, 0)]
    while waiting:
        node, depth = waiting.pop()
        nodes += 1
        if isinstance(node, Mapping):
            waiting += [(part, depth + 1) for pair in node.items() for part in pair]
        elif isinstance(node, (list, tuple)):
            waiting += [(part, depth + 1) for part in node]
        elif isinstance(node, str):
            characters += len(node)
            if characters <= MAX_CHARACTERS and not _is_unicode(node):
                fail("a text in it is not valid Unicode", "")
        elif isinstance(node, float) and not math.isfinite(node):
            fail("a number in it is not finite", "")
        elif isinstance(node, int) and abs(node) >= 10**100:
            fail("a number in it is too large", "")
        elif not (node is None or isinstance(node, (bool, int, float))):
            fail("it is not JSON", "")
        if depth > MAX_DEPTH:
            fail(f"it nests deeper than {MAX_DEPTH}", "")
        if nodes + len(waiting) > MAX_NODES * 2 or characters > MAX_CHARACTERS:
            fail("it is too large", "")


class Document:
    """A schema and what it refers to."""

    def __init__(self, root: object, spend: Callable[[int], object]) -> None:
        self._root = root
        self._spend = spend

    def keywords(self, schema: object, where: str) -> dict[str, Any]:
        """The keywords of `schema` that count. Raises PromptError for those not supported."""
        self._spend(10)
        if schema is True:
            return {}
        if schema is False:
            fail("nothing is allowed here", where)
        if not isinstance(schema, Mapping):
            fail("a schema must be an object", where)
        found = {}
        for keyword, value in schema.items():
            if keyword in KEYWORDS:
                found[keyword] = value
            elif keyword not in ANNOTATIONS and not str(keyword).startswith("x-"):
                fail(f'the keyword "{str(keyword)[:80]}" is not supported', below(where, keyword))
        return found

    def target(self, reference: object, where: str) -> object:
        """What a reference within the schema refers to."""
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            fail('"$ref" is supported for places in the schema itself only', below(where, "$ref"))
        found = self._root
        for step in reference.split("/")[1:]:
            name = unquote(step).replace("~1", "/").replace("~0", "~")
            if isinstance(found, Mapping) and name in found:
                found = found[name]
            elif isinstance(found, list) and name.isdecimal() and int(name[:9]) < len(found):
                found = found[int(name[:9])]
            else:
                fail(f'there is no "{reference[:80]}"', below(where, "$ref"))
        return found

    def merged(self, schemas: Sequence[object], where: str) -> dict[str, Any]:
        """One schema, without "$ref" and "allOf", for what all of `schemas` demand."""
        parts = [part for schema in schemas for part in self._flat(schema, where, ())]
        merged: dict[str, Any] = {}
        for part in parts:
            for keyword, value in part.items():
                if keyword in merged and not same(merged[keyword], value):
                    merged[keyword] = _both(keyword, merged[keyword], value, where)
                else:
                    merged[keyword] = value
        # What one part says of additional properties holds for the others' properties too.
        for part in parts:
            others = part.get("additionalProperties", True)
            own = part.get("properties") or {}
            if others is True or not isinstance(merged.get("properties", {}), Mapping):
                continue
            self._spend(len(merged.get("properties", {})))
            merged["properties"] = {
                name: schema
                if name in own
                else False
                if others is False
                else {"allOf": [schema, others]}
                for name, schema in merged.get("properties", {}).items()
            }
        return merged

    def _flat(self, schema: object, where: str, active: tuple[str, ...]) -> list[dict[str, Any]]:
        found = self.keywords(schema, where)
        reference = found.pop("$ref", None)
        every = found.pop("allOf", [])
        if not isinstance(every, list):
            fail('"allOf" must be a list', below(where, "allOf"))
        parts = [found] if found else []
        if reference is not None:
            if reference in active or len(active) > MAX_DEPTH:
                fail("the reference leads back to itself", below(where, "$ref"))
            target = self.target(reference, where)
            parts += self._flat(target, str(reference), (*active, reference))
        for index, each in enumerate(every):
            parts += self._flat(each, below(where, "allOf", index), active)
        return parts


def same(one: object, other: object) -> bool:
    """Whether two values are the same JSON, True and 1 being different."""
    return type(one) is type(other) and encode(one) == encode(other)


def encode(value: object) -> str:
    """`value` as compact JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def types_of(value: object, where: str) -> list[str]:
    """The types that the keyword "type" allows."""
    names = value if isinstance(value, list) else [value]
    if not names or not all(isinstance(name, str) and name in TYPES for name in names):
        fail('"type" must be one or more of JSON\'s types', below(where, "type"))
    found = list(dict.fromkeys(names))
    return [n for n in found if not (n == "integer" and "number" in found)]


def type_fits(value: object, types: Sequence[str]) -> bool:
    """Whether `value` is of one of `types`."""
    if isinstance(value, bool) or value is None:
        return ("boolean" if isinstance(value, bool) else "null") in types
    if isinstance(value, (int, float)):
        return "number" in types or ("integer" in types and value == int(value))
    if isinstance(value, str):
        return "string" in types
    return ("array" if isinstance(value, list) else "object") in types


def _both(keyword: str, one: Any, other: Any, where: str) -> Any:
    """The value of `keyword` that demands what both values demand."""
    numeric = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in (one, other))
    if keyword in _LARGEST and numeric:
        return max(one, other)
    if keyword in _SMALLEST and numeric:
        return min(one, other)
    if keyword == "required" and isinstance(one, list) and isinstance(other, list):
        return [*one, *(name for name in other if name not in one)]
    if keyword == "properties" and isinstance(one, Mapping) and isinstance(other, Mapping):
        shared = {name: {"allOf": [one[name], other[name]]} for name in one if name in other}
        return {**one, **other, **shared}
    if keyword == "enum" and isinstance(one, list) and isinstance(other, list):
        known = {encode(value) for value in other}
        return [value for value in one if encode(value) in known]
    if keyword == "nullable":
        return one is True and other is True
    if keyword == "type":
        first, second = types_of(one, where), types_of(other, where)
        both = [name for name in first if name in second]
        both += ["integer"] if {"integer", "number"} <= {*first, *second} else []
        return both or fail("no type is allowed", below(where, "type"))
    if keyword in ("additionalProperties", "items"):
        if one is False or other is False:
            return False
        return {"allOf": [one, other]}
    return fail(f'several values of "{keyword}" can\'t be combined', below(where, keyword))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
