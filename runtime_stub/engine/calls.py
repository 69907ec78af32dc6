"""Readers of tool calls, one for each syntax of `families`.

A reader begins after the opener, hands what it finds to a `Sink` and leaves the source after
the call. It raises MalformedError where the text is no call.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from runtime_stub.engine.families import Family
from runtime_stub.engine.literals import (
    LONGEST_NAME,
    argument_text,
    call_text,
    gemma_object,
    python_arguments,
    wording,
)
from runtime_stub.engine.source import MalformedError, Source, Steps

NAME = re.compile(r"[\w.:/-]{1,128}")
"""Names of functions. Where a syntax has no quotes around them, nothing else is one."""
_NAME_KEYS = ("name", "tool_name", "function")
_ARGUMENT_KEYS = ("arguments", "parameters", "args")
_FURTHER_KEYS = ("id", "type", "tool_call_id")

Schemas = Mapping[str, Mapping[str, Any]]
"""Functions by name, with the JSON schema of their parameters."""


class Sink(Protocol):
    """Where calls go."""

    def start(self, name: str, identity: str | None = None) -> None:
        """A call of `name` begins."""

    def put(self, text: str) -> None:
        """More of its arguments, as JSON."""

    def done(self) -> None:
        """It is complete."""


@dataclass
class _Call:
    """What is known of a JSON call so far."""

    name: str = ""
    arguments: str = ""
    identity: str | None = None
    started: bool = False
    """Whether it has been passed on, with arguments as they come."""


@dataclass(frozen=True)
class CallReader:
    """Reads the calls of one family."""

    family: Family
    source: Source
    sink: Sink
    schemas: Schemas

    def read(self, opener: str) -> Steps[None]:
        """Read the call or calls that `opener` began; an empty one is the start of the answer."""
        if opener.startswith("```"):
            yield from self._fenced(opener)
        elif not opener:
            yield from self._bare()
        elif self.family.syntax == "json":
            yield from self._json()
        elif self.family.syntax == "tagged":
            yield from self._tagged(opener)
        elif self.family.syntax == "keyed":
            yield from self._keyed()
        elif self.family.syntax == "llama":
            yield from self._llama()
        elif self.family.syntax == "mistral":
            yield from self._mistral()
        elif self.family.syntax == "deepseek":
            yield from self._deepseek(opener)
        elif self.family.syntax == "kimi":
            yield from self._kimi()
        elif self.family.syntax == "gemma":
            yield from self._gemma()
        else:
            yield from self._python()

    def arguments(self) -> Steps[None]:
        """Read a JSON object as the arguments of the call that has been started."""
        if (yield from self.source.skip()) != "{":
            raise MalformedError
        yield from self.source.json(self.sink.put)
        self.sink.done()

    def _whole(self, name: str, arguments: str, identity: str | None = None) -> None:
        self.sink.start(name, identity)
        self.sink.put(arguments)
        self.sink.done()

    def _close(self) -> Steps[None]:
        yield from self.source.skip()
        if self.family.closer:
            yield from self.source.take(self.family.closer)

    # JSON.

    def _json(self) -> Steps[None]:
        yield from self._objects()
        yield from self._close()

    def _bare(self) -> Steps[None]:
        yield from self._objects(strict=True)

    def _fenced(self, opener: str) -> Steps[None]:
        if opener == "```tool_code":
            yield from self._python("```")
            return
        yield from self._objects(strict=True)
        yield from self.source.skip()
        yield from self.source.take("```")

    def _objects(self, *, strict: bool = False) -> Steps[None]:
        """One object, several one after the other, or a list of them."""
        listed = (yield from self.source.skip()) == "["
        if listed:
            self.source.at += 1
            yield from self.source.skip()
        while True:
            yield from self._object(strict=strict)
            place = self.source.at
            following = yield from self.source.skip()
            if listed and following == "]":
                self.source.at += 1
                return
            if following in {",", ";"}:
                self.source.at += 1
                following = yield from self.source.skip()
            elif listed:
                raise MalformedError
            if following != "{":
                self.source.at = place
                return

    def _object(self, *, strict: bool) -> Steps[None]:
        """One call as an object. `strict` takes no keys but those of calls."""
        call = _Call()
        following = ""
        yield from self.source.expect("{")
        while following != "}":
            yield from self.source.skip()
            key = yield from self.source.string()
            yield from self.source.skip()
            yield from self.source.expect(":")
            yield from self._value(call, key, strict=strict)
            following = yield from self.source.skip()
            if following not in {",", "}"}:
                raise MalformedError
            self.source.at += 1
        if call.started:
            self.sink.done()
        elif not call.name or (strict and not call.arguments):
            raise MalformedError
        else:
            self._whole(call.name, call.arguments or "{}", call.identity)

    def _value(self, call: _Call, key: str, *, strict: bool) -> Steps[None]:
        """The value of one key of a call."""
        following = yield from self.source.skip()
        if key in _NAME_KEYS and following == '"' and not call.name:
            call.name = yield from self.source.string()
            if len(call.name) > LONGEST_NAME:
                raise MalformedError
        elif key in _ARGUMENT_KEYS and not call.arguments:
            if call.name and following == "{":
                self.sink.start(call.name, call.identity)
                call.started, call.arguments = True, "{}"
                yield from self.source.json(self.sink.put)
            else:
                call.arguments = yield from self._held_arguments()
        elif key == "id" and following == '"':
            call.identity = yield from self.source.string()
        elif strict and key not in _FURTHER_KEYS:
            raise MalformedError
        else:
            yield from self._held()

    def _held(self) -> Steps[str]:
        parts: list[str] = []
        yield from self.source.json(parts.append)
        return "".join(parts)

    def _held_arguments(self) -> Steps[str]:
        """Arguments that can't be passed on as they come: an object, nothing, or a text of one."""
        following = yield from self.source.peek()
        if following == '"':
            text = yield from self.source.string()
            return call_text(text)
        text = yield from self._held()
        return "{}" if text == "null" else call_text(text)

    # Tags around names and values.

    def _tagged(self, opener: str) -> Steps[None]:
        if opener != "<function=":
            if (yield from self.source.skip()) == "{":
                yield from self._json()
                return
            yield from self.source.expect("<function=")
        while True:
            yield from self._function()
            yield from self.source.skip()
            if not (yield from self.source.take("<function=")):
                break
        yield from self._close()

    def _function(self) -> Steps[None]:
        name, _ = yield from self.source.until(">", limit=LONGEST_NAME)
        if not NAME.fullmatch(name.strip()):
            raise MalformedError
        name = name.strip()
        if (yield from self.source.skip()) == "{":
            self.sink.start(name)
            yield from self.arguments()
            yield from self.source.skip()
            yield from self.source.take("</function>")
            return
        first = True
        while (yield from self.source.take("<parameter=")):
            key, _ = yield from self.source.until(">", limit=LONGEST_NAME)
            value, _ = yield from self.source.until("</parameter>")
            first = self._member(name, key.strip(), _unwrapped(value), first=first)
            yield from self.source.skip()
        yield from self.source.expect("</function>")
        self._last(name, first=first)

    def _keyed(self) -> Steps[None]:
        name, end = yield from self.source.until(
            "<arg_key>", self.family.closer, limit=LONGEST_NAME
        )
        name = name.strip()
        if not NAME.fullmatch(name):
            raise MalformedError
        first = True
        while end == "<arg_key>":
            key, _ = yield from self.source.until("</arg_key>", limit=LONGEST_NAME)
            yield from self.source.skip()
            yield from self.source.expect("<arg_value>")
            value, _ = yield from self.source.until("</arg_value>")
            first = self._member(name, key.strip(), value, first=first)
            yield from self.source.skip()
            if not (yield from self.source.take("<arg_key>")):
                yield from self.source.expect(self.family.closer)
                break
        self._last(name, first=first)

    def _member(self, name: str, key: str, value: str, *, first: bool) -> bool:
        if first:
            self.sink.start(name)
        text = argument_text(value, self.schemas.get(name), key)
        self.sink.put(f"{'{' if first else ', '}{wording(key)}: {text}")
        return False

    def _last(self, name: str, *, first: bool) -> None:
        if first:
            self._whole(name, "{}")
        else:
            self.sink.put("}")
            self.sink.done()

    # Syntaxes of single families.

    def _llama(self) -> Steps[None]:
        if (yield from self.source.skip()) in {"{", "["}:
            yield from self._objects()
            return
        # Built-in tools: brave_search.call(query="...").
        yield from self._python_call(".call(")

    def _mistral(self) -> Steps[None]:
        if (yield from self.source.skip()) in {"[", "{"}:
            yield from self._objects()
            return
        name, end = yield from self.source.until("[ARGS]", "[CALL_ID]", "{", limit=LONGEST_NAME)
        identity = None
        if end == "[CALL_ID]":
            identity, end = yield from self.source.until("[ARGS]", limit=LONGEST_NAME)
        if not NAME.fullmatch(name.strip()):
            raise MalformedError
        if end == "{":
            self.source.at -= 1
        elif (yield from self.source.skip()) != "{":
            raise MalformedError
        self.sink.start(name.strip(), identity)
        yield from self.arguments()

    def _deepseek(self, opener: str) -> Steps[None]:
        begun = opener == "<｜tool▁call▁begin｜>"
        while begun or (yield from self._follows("<｜tool▁call▁begin｜>")):
            begun = False
            name, _ = yield from self.source.until("<｜tool▁sep｜>", limit=LONGEST_NAME)
            fenced = (yield from self.source.skip()) != "{"
            if fenced:
                # V3 and R1 write the kind of tool first, then its name and fenced arguments.
                name, _ = yield from self.source.until("\n", limit=LONGEST_NAME)
                yield from self.source.skip()
                yield from self.source.expect("```json")
            if not NAME.fullmatch(name.strip()) or (yield from self.source.skip()) != "{":
                raise MalformedError
            self.sink.start(name.strip())
            yield from self.arguments()
            yield from self.source.skip()
            if fenced:
                yield from self.source.take("```")
            yield from self._follows("<｜tool▁call▁end｜>")
            opener = ""
        if opener:
            raise MalformedError
        yield from self._close()

    def _kimi(self) -> Steps[None]:
        called = False
        while (yield from self._follows("<|tool_call_begin|>")):
            identity, _ = yield from self.source.until(
                "<|tool_call_argument_begin|>", limit=LONGEST_NAME
            )
            name = re.sub(r":\d+$", "", identity.strip().removeprefix("functions."))
            if not NAME.fullmatch(name) or (yield from self.source.skip()) != "{":
                raise MalformedError
            self.sink.start(name, identity.strip())
            yield from self.arguments()
            yield from self._follows("<|tool_call_end|>")
            called = True
        if not called:
            raise MalformedError
        yield from self._close()

    def _follows(self, literal: str) -> Steps[bool]:
        yield from self.source.skip()
        return (yield from self.source.take(literal))

    def _gemma(self) -> Steps[None]:
        while True:
            yield from self._follows("call:")
            name, _ = yield from self.source.until("{", limit=LONGEST_NAME)
            if not NAME.fullmatch(name.strip()):
                raise MalformedError
            text = yield from gemma_object(self.source, self.family.quote)
            self._whole(name.strip(), text)
            if (yield from self.source.skip()) != ",":
                break
            self.source.at += 1
        yield from self._close()

    def _python(self, closer: str = "") -> Steps[None]:
        following = yield from self.source.skip()
        listed = following == "["
        if listed:
            self.source.at += 1
            following = yield from self.source.skip()
        if following == "{":
            # Some models of these families fall back to JSON.
            yield from self._objects()
        else:
            yield from self._python_calls()
        if listed:
            yield from self._follows("]")
        yield from self._follows(closer or self.family.closer)

    def _python_calls(self) -> Steps[None]:
        while True:
            printed = yield from self._follows("print(")
            yield from self._python_call("(")
            if printed:
                yield from self.source.skip()
                yield from self.source.expect(")")
            place = self.source.at
            following = yield from self.source.skip()
            if following in {",", ";"}:
                self.source.at += 1
                following = yield from self.source.skip()
            if not (following.isalpha() or following == "_"):
                self.source.at = place
                return

    def _python_call(self, bracket: str) -> Steps[None]:
        name, _ = yield from self.source.until(bracket, limit=LONGEST_NAME)
        name = name.strip().removeprefix("default_api.")
        if not NAME.fullmatch(name):
            raise MalformedError
        arguments = yield from python_arguments(self.source)
        self._whole(name, arguments)


def _unwrapped(value: str) -> str:
    """The value without the line breaks that set it apart from its tags."""
    return value.removeprefix("\n").removesuffix("\n")
