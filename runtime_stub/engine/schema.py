"""JSON Schema to GBNF: what a model writes under the grammar is valid under the schema.

The converse does not hold, and need not: of the instances of a schema the grammar generates
those with properties in the schema's order, at most 19 digits before the point, and no
properties beside the named ones unless the schema says something of them. What can't be
honoured is an error that names the keyword and its place; annotations are ignored.
"oneOf" is read as "anyOf".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from runtime_stub.engine.automaton import all_but
from runtime_stub.engine.grammar import quote
from runtime_stub.engine.grammar_builder import JSON_OBJECT, KEY_END, OBJECT, VALUE, WS, Rules
from runtime_stub.engine.schema_parts import (
    OF_TYPE,
    Document,
    below,
    encode,
    fail,
    measure,
    types_of,
)
from runtime_stub.engine.schema_scalars import Scalars, lengths

__all__ = ["JSON_OBJECT", "GrammarBuilder", "grammar_for"]


def grammar_for(schema: object) -> str:
    """The grammar of compact or indented JSON that is valid under `schema`.

    Raises PromptError when the schema is not valid, not supported, or too large.
    """
    builder = GrammarBuilder()
    return builder.text(builder.add_schema("schema", schema))


class GrammarBuilder(Rules):
    """Puts several schemas and rules of one's own into one grammar.

    `builder.text(builder.add_choice("either", [a, b]))`, with `a` and `b` from `add_schema`,
    is a grammar of what is valid under either of two schemas.
    """

    def add_schema(self, name: str, schema: object) -> str:
        """Add rules for `schema`, with names like `name`. Returns the one to refer to.

        Raises PromptError as `grammar_for` does.
        """
        measure(schema)
        return _Compiler(self, name, schema).run()


class _Compiler:
    def __init__(self, rules: GrammarBuilder, name: str, root: object) -> None:
        self._rules = rules
        self._name = name
        self._scalars = Scalars(rules, name)
        self._document = Document(root, rules.spend)
        self._targets: dict[str, str] = {"#": rules.reserve(name)}
        self._waiting: list[tuple[str, object]] = [("#", root)]

    def run(self) -> str:
        # One after the other: references may go in circles.
        for pointer, schema in self._waiting:
            where = "" if pointer == "#" else pointer
            self._rules.define(self._targets[pointer], self._compile(schema, where))
        return self._targets["#"]

    def _add(self, body: str) -> str:
        return self._rules.add_rule(self._name, body)

    def _compile(self, schema: object, where: str) -> str:
        """One GBNF item for `schema`."""
        try:
            found = self._document.keywords(schema, where)
            if len(found) == 1 and "$ref" in found:
                return self._reference(found["$ref"], where)
            if "$ref" in found or "allOf" in found:
                found = self._document.merged([found], where)
        except RecursionError:
            fail("it is too deep", where)
        nullable = found.pop("nullable", False) is True
        alternatives = self._alternatives(found, where)
        if nullable and '"null"' not in alternatives:
            alternatives.append('"null"')
        unique = list(dict.fromkeys(alternatives))
        return unique[0] if len(unique) == 1 else self._rules.add_choice(self._name, unique)

    def _reference(self, reference: object, where: str) -> str:
        target = self._document.target(reference, where)
        pointer = str(reference)
        followed = {pointer}
        while isinstance(target, Mapping) and "$ref" in target:
            found = self._document.keywords(target, pointer)
            if len(found) > 1:
                break
            pointer = str(found["$ref"])
            target = self._document.target(pointer, where)
            if pointer in followed:
                fail("the reference leads back to itself", below(where, "$ref"))
            followed.add(pointer)
        if pointer not in self._targets:
            name = f"{self._name}-{pointer.rsplit('/', 1)[-1]}"
            self._targets[pointer] = self._rules.reserve(name)
            self._waiting.append((pointer, target))
        return self._targets[pointer]

    def _alternatives(self, found: dict[str, Any], where: str) -> list[str]:
        for keyword in ("anyOf", "oneOf"):
            if keyword in found:
                options = found.pop(keyword)
                if not isinstance(options, list) or not options:
                    fail(f'"{keyword}" must be a list', below(where, keyword))
                return [
                    self._compile(
                        {"allOf": [found, option]} if found else option,
                        below(where, keyword, index),
                    )
                    for index, option in enumerate(options)
                    if option is not False
                ]
        if "enum" in found or "const" in found:
            return [self._scalars.values(found, where)]
        if "type" in found:
            types = types_of(found["type"], where)
        else:
            types = [n for n, own in OF_TYPE.items() if any(k in found for k in own)]
        if not types:
            return [VALUE]
        compilers: dict[str, Callable[[dict[str, Any], str], str]] = {
            "object": self._object,
            "array": self._array,
            "string": self._scalars.string,
            "number": self._scalars.number,
            "integer": self._scalars.integer,
            "boolean": lambda _, __: '("true" | "false")',
            "null": lambda _, __: '"null"',
        }
        return [compilers[name](found, where) for name in types]

    def _array(self, found: dict[str, Any], where: str) -> str:
        if found.get("uniqueItems") not in (None, False):
            fail('the keyword "uniqueItems" is not supported', below(where, "uniqueItems"))
        least, most = lengths(found, "minItems", "maxItems", where)
        items = found.get("items", True)
        prefix = found.get("prefixItems", [])
        if isinstance(items, list):  # as it was before 2020
            prefix, items = items, True
        if not isinstance(prefix, list):
            fail('"prefixItems" must be a list', below(where, "prefixItems"))
        if items is False or (prefix and "items" not in found and least <= len(prefix)):
            most = len(prefix) if most is None else min(most, len(prefix))
        if most is not None and most < least:
            fail("no number of items is allowed", where)
        if most == 0:
            return self._add(f'"[" {WS} "]"')
        first = [
            self._compile(schema, below(where, "prefixItems", index))
            for index, schema in enumerate(prefix[:most])
        ]
        count = len(first)
        rest = ""
        if most is None or most > count:
            item = self._compile(items, below(where, "items"))
            if not first:
                more = self._rules.repeat(
                    self._add(f'"," {WS} {item}'), max(0, least - 1), most and most - 1
                )
                body = f"{item} {more} {WS}" if more else f"{item} {WS}"
                body = body if least else f"({body})?"
                return self._add(f'"[" {WS} {body} "]"')
            rest = self._rules.repeat(
                self._add(f'"," {WS} {item}'),
                max(0, least - count),
                None if most is None else most - count,
            )
        after = self._add(f"{rest} {WS}")
        for index in range(count - 1, 0, -1):
            end = f" | {WS}" if index >= least else ""
            after = self._add(f'"," {WS} {first[index]} {after}{end}')
        body = f"{first[0]} {after}"
        return self._add(f'"[" {WS} {body if least else f"({body})?"} "]"')

    def _object(self, found: dict[str, Any], where: str) -> str:
        properties = found.get("properties", {})
        required = found.get("required", [])
        if not isinstance(properties, Mapping):
            fail('"properties" must be an object', below(where, "properties"))
        if not isinstance(required, list) or not all(isinstance(n, str) for n in required):
            fail('"required" must be a list of names', below(where, "required"))
        others = found.get("additionalProperties", not properties and not required)
        if not found.keys() & set(OF_TYPE["object"]):
            return OBJECT
        extra = {
            n: found.get("additionalProperties", True) for n in required if n not in properties
        }
        needed = set(required)
        named: list[tuple[str, str, bool]] = []
        for name, schema in {**properties, **extra}.items():
            if schema is False and name not in needed:
                continue
            item = self._compile(schema, below(where, "properties", name))
            named.append((quote(encode(name)[1:] + ":"), item, name in needed))
        other = ""
        if others is not False:
            item = self._compile(others, below(where, "additionalProperties"))
            names = [*properties, *extra]
            self._rules.spend(sum(map(len, names)))
            key = (
                self._rules.add_automaton(f"{self._name}-key", all_but(names), quoted=True)
                if names
                else KEY_END
            )
            other = f'{key} ":" {WS} {item}'
        return self._add(f'"{{" {WS} {self._members(named, other)} "}}"')

    def _members(self, named: Sequence[tuple[str, str, bool]], other: str) -> str:
        """What stands between the braces: `named` in their order, then any number of `other`.

        From the end to the start: `after` is what may follow a member, `choose` picks the
        next one, whose opening quotation mark is written already.
        """
        after, choose, may_end = WS, "", True
        if other:
            after = self._rules.reserve(self._name)
            choose = self._add(f"{other} {after}")
            self._rules.define(after, rf'"," {WS} "\"" {choose} | {WS}')
        for key, item, required in reversed(named):
            own = f"{key} {WS} {item} {after}"
            choose = self._add(f"{own} | {choose}" if choose and not required else own)
            may_end = may_end and not required
            end = f" | {WS}" if may_end else ""
            after = self._add(rf'"," {WS} "\"" {choose}{end}')
        if not choose:
            return ""
        return rf'"\"" {choose}' if not may_end else rf'("\"" {choose})?'
