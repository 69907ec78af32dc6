"""Values as models write them, turned into JSON text.

Some read a bare text whole, some read from a `Source` as it comes: Gemma's objects and the
keyword arguments of Python calls. Neither calls on Python's own parser, which is recursive in C.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from runtime_stub.engine.source import MAX_DEPTH, MalformedError, Source, Steps

LONGEST_NAME = 128
_PYTHON_WORDS = {"True": "true", "False": "false", "None": "null"}


def wording(text: str) -> str:
    """`text` as a JSON string."""
    return json.dumps(text, ensure_ascii=False)


def call_text(text: str) -> str:
    """Arguments as one JSON text; malformed when they are no object."""
    text = text.strip() or "{}"
    if not isinstance(_decoded(text), dict):
        raise MalformedError
    return text


def argument_text(value: str, schema: Mapping[str, Any] | None, key: str) -> str:
    """The JSON for a value that came as bare text.

    The function's parameter schema decides whether 5 is a number or a text. Without one, or
    where the schema leaves it open, what reads as JSON is JSON.
    """
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    kinds = json_kinds(properties.get(key) if isinstance(properties, Mapping) else None)
    if kinds == {"string"}:
        return wording(value)
    bare = value.strip()
    if kinds and "string" not in kinds:
        bare = _PYTHON_WORDS.get(bare, bare)
    try:
        decoded = _decoded(bare)
    except MalformedError:
        return wording(value)
    # A text in quotes keeps them only where the schema is known to want none of our reading.
    return wording(value) if isinstance(decoded, str) and "string" in kinds else bare


def json_kinds(wanted: object) -> set[str]:
    """The JSON types that a schema allows; empty when it does not say."""
    if not isinstance(wanted, Mapping):
        return set()
    kinds: set[str] = set()
    for choice in [wanted, *_list(wanted.get("anyOf")), *_list(wanted.get("oneOf"))]:
        if not isinstance(choice, Mapping):
            continue
        kind = choice.get("type")
        kinds.update(str(name) for name in (kind if isinstance(kind, list) else [kind]) if name)
        values = [*_list(choice.get("enum")), *([choice["const"]] if "const" in choice else [])]
        if values and not kind:
            texts = all(isinstance(value, str) for value in values)
            kinds.update({"string"} if texts else {"number", "string"})
    return kinds


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _decoded(text: str) -> object:
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise MalformedError from None


def _refuse(name: str) -> object:
    raise ValueError(name)  # NaN and Infinity are not JSON


def gemma_object(source: Source, quote: str, depth: int = 0) -> Steps[str]:
    """Read `a:1,b:<quote>text<quote>}`, whose first brace has been read, as a JSON object."""
    members: list[str] = []
    while (yield from source.skip()) != "}":
        key, _ = yield from source.until(":", limit=LONGEST_NAME)
        key = key.strip().removeprefix(quote).removesuffix(quote).strip('"')
        members.append(f"{wording(key)}: {(yield from _gemma_value(source, quote, depth + 1))}")
        yield from _separator(source, "}")
    source.at += 1
    return "{" + ", ".join(members) + "}"


def _gemma_value(source: Source, quote: str, depth: int) -> Steps[str]:
    _bound(depth)
    following = yield from source.skip()
    if (yield from source.take(quote)):
        text, _ = yield from source.until(quote)
        return wording(text)
    if following == "{":
        source.at += 1
        return (yield from gemma_object(source, quote, depth))
    if following == "[":
        source.at += 1
        items: list[str] = []
        while (yield from source.skip()) != "]":
            items.append((yield from _gemma_value(source, quote, depth + 1)))
            yield from _separator(source, "]")
        source.at += 1
        return "[" + ", ".join(items) + "]"
    if following == '"':
        return wording((yield from source.string()))
    text, _ = yield from source.until(",", "}", "]")
    source.at -= 1
    if not text.strip():
        raise MalformedError
    return argument_text(text.strip(), None, "")


def python_arguments(source: Source) -> Steps[str]:
    """Read `a=1, b='text')`, whose first bracket has been read, as a JSON object."""
    members: list[str] = []
    while (yield from source.skip()) != ")":
        key, _ = yield from source.until("=", limit=LONGEST_NAME)
        if not key.strip().isidentifier():
            raise MalformedError
        members.append(f"{wording(key.strip())}: {(yield from _python_value(source, 0))}")
        yield from _separator(source, ")")
    source.at += 1
    return "{" + ", ".join(members) + "}"


def _python_value(source: Source, depth: int) -> Steps[str]:
    """A Python literal, in which JSON's words are as good as Python's."""
    _bound(depth)
    following = yield from source.skip()
    if following in {'"', "'"}:
        return (yield from _python_string(source, following))
    for word, text in _PYTHON_WORDS.items():
        if word[0] == following:
            yield from source.expect(word)
            return text
    if following not in {"[", "(", "{"}:
        parts: list[str] = []
        yield from source.json(parts.append)
        return "".join(parts)
    source.at += 1
    closer = {"[": "]", "(": ")", "{": "}"}[following]
    items: list[str] = []
    while (character := (yield from source.skip())) != closer:
        key = ""
        if closer == "}":
            if character not in {'"', "'"}:
                raise MalformedError
            key = (yield from _python_string(source, character)) + ": "
            yield from source.skip()
            yield from source.expect(":")
        items.append(key + (yield from _python_value(source, depth + 1)))
        yield from _separator(source, closer)
    source.at += 1
    return ("{%s}" if closer == "}" else "[%s]") % ", ".join(items)


_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "\n": ""}
_CODED = {"x": 2, "u": 4, "U": 8}


def _python_string(source: Source, quote: str) -> Steps[str]:
    parts: list[str] = []
    if (yield from source.take(quote * 3)):
        quote *= 3
    else:
        yield from source.expect(quote)
    while not (yield from source.take(quote)):
        character = yield from source.next()
        if character != "\\":
            parts.append(character)
            continue
        escaped = yield from source.next()
        if escaped in _CODED:
            parts.append((yield from _coded(source, _CODED[escaped])))
        elif escaped in {"\\", "'", '"'}:
            parts.append(escaped)
        else:
            parts.append(_ESCAPES.get(escaped, "\\" + escaped))
    # Emoji come as halves, \\ud83d\\ude00, where a model thinks in JSON: join them.
    text = "".join(parts).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return wording(text)


def _coded(source: Source, length: int) -> Steps[str]:
    digits = ""
    while len(digits) < length:
        digits += yield from source.next()
    try:
        return chr(int(digits, 16))
    except (ValueError, OverflowError):
        raise MalformedError from None


def _separator(source: Source, closer: str) -> Steps[None]:
    following = yield from source.skip()
    if following == ",":
        source.at += 1
    elif following != closer:
        raise MalformedError


def _bound(depth: int) -> None:
    if depth > MAX_DEPTH // 2:
        raise MalformedError
