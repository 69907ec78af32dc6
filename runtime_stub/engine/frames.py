"""What stands around the names and arguments of calls, for writing them and for grammars.

A block of calls is `begin`, calls joined by `separator`, `end`; a call is `head`, its name,
`between`, its arguments as JSON, `tail`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runtime_stub.engine.families import Family


@dataclass(frozen=True)
class Frame:
    """The fixed texts of a syntax."""

    head: str
    between: str
    tail: str
    begin: str = ""
    separator: str = "\n"
    end: str = ""
    single: bool = False
    """Whether a block holds one call."""


@dataclass(frozen=True)
class Call:
    """A call that is known whole."""

    name: str
    arguments: Mapping[str, Any]


def frame(family: Family) -> Frame:
    """The frame of a family's calls, in the variant that its template shows.

    For "tagged", "keyed", "gemma" and "python" syntax, what stands in it are not JSON arguments
    but members: see `write_calls`.
    """
    opener = family.openers[0] if family.openers else ""
    closer = family.closer
    name, arguments = family.keys
    object_head, object_between = f'{{"{name}": "', f'", "{arguments}": '
    if family.listed:
        return Frame(object_head, object_between, "}", f"{opener}[", ", ", f"]{closer}")
    frames = {
        "json": Frame(f"{opener}\n{object_head}", object_between, f"}}\n{closer}"),
        "llama": Frame(object_head, object_between, "}", single=True),
        "mistral": Frame(opener, "[ARGS]", "", separator=""),
        "kimi": Frame(
            "<|tool_call_begin|>functions.",
            ":0<|tool_call_argument_begin|>",
            "<|tool_call_end|>",
            begin=opener,
            end=closer,
            single=True,
        ),
        # The mark that ends a call also ends the answer: the grammar ends before it.
        "harmony": Frame(
            "<|channel|>commentary to=functions.",
            " <|constrain|>json<|message|>",
            "",
            single=True,
        ),
        "tagged": Frame(f"{opener}\n<function=", ">\n", f"</function>\n{closer}"),
        "keyed": Frame(opener, "\n", closer),
        "gemma": Frame(f"{opener}call:", "{", f"}}{closer}", separator=""),
        "python": Frame("", "(", ")", f"{opener}[", ", ", f"]{closer}"),
    }
    if family.syntax == "deepseek":
        return _deepseek(family, opener)
    if family.syntax == "tagged" and family.style == "json":
        return Frame(opener, ">", "</function>")
    return frames[family.syntax]


def _deepseek(family: Family, opener: str) -> Frame:
    begin, separator, end = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
    if family.style == "fenced":
        return Frame(
            f"{begin}function{separator}",
            "\n```json\n",
            f"\n```{end}",
            begin=opener,
            end=family.closer,
        )
    return Frame(begin, separator, end, begin=opener, separator="", end=family.closer)


def write_calls(family: Family, calls: Sequence[Call]) -> str:
    """The text with which a model of the family makes these calls."""
    made = frame(family)
    return (
        made.begin
        + made.separator.join(
            f"{made.head}{call.name}{made.between}{_arguments(family, call.arguments)}{made.tail}"
            for call in calls
        )
        + made.end
    )


def _arguments(family: Family, arguments: Mapping[str, Any]) -> str:
    if family.syntax == "tagged" and family.style != "json":
        return "".join(
            f"<parameter={key}>\n{_bare(value)}\n</parameter>\n" for key, value in arguments.items()
        )
    if family.syntax == "keyed":
        return "".join(
            f"<arg_key>{key}</arg_key>\n<arg_value>{_bare(value)}</arg_value>\n"
            for key, value in arguments.items()
        )
    if family.syntax == "python":
        return ", ".join(f"{key}={_json(value)}" for key, value in arguments.items())
    if family.syntax == "gemma":
        return _gemma(family.quote, arguments)[1:-1]
    return _json(arguments)


def _gemma(quote: str, value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_gemma(quote, item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_gemma(quote, item) for item in value) + "]"
    return f"{quote}{value}{quote}" if isinstance(value, str) else _json(value)


def _bare(value: Any) -> str:
    return value if isinstance(value, str) else _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
