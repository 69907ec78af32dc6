"""Chat templates: the model's own Jinja, in a sandbox whose work is bounded too.

A template comes with the model, from a stranger. Jinja's sandbox keeps it away from
attributes and files, but not from time and memory, so this one also bounds the length of
what is rendered, the size of what one operation makes, and the time it takes.
"""

from __future__ import annotations

import datetime
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from runtime_stub.errors import PromptError

MAX_SECONDS = 2.0
MAX_CHARACTERS = 16_000_000
MAX_OPERAND = 1_000_000
"""Largest number, and longest text or list, that an operation may multiply by."""

FALLBACK_NAME = "ChatML"
FALLBACK = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Used, with a notice, for models that came without a template."""


@dataclass(frozen=True)
class Variables:
    """What every template can refer to besides the messages."""

    bos_token: str = ""
    eos_token: str = ""


class ChatTemplate:
    """A compiled chat template. Rendering is safe from any one thread at a time."""

    def __init__(self, source: str, variables: Variables) -> None:
        """Compile `source`; raises PromptError when it is not valid Jinja."""
        self._variables = variables
        environment = _Environment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", _GenerationTag],
        )
        # Padding filters make text of any length from nothing.
        for name in ("center", "indent", "xmlattr", "lipsum"):
            environment.filters.pop(name, None)
            environment.globals.pop(name, None)
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _format_now
        try:
            with _deadline():
                self._template = environment.from_string(source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise PromptError(f"the chat template is not valid: {error}") from None

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        **arguments: Any,
    ) -> str:
        """The prompt for `messages`. Raises PromptError when the template fails or refuses."""
        values = {
            "bos_token": self._variables.bos_token,
            "eos_token": self._variables.eos_token,
            "messages": [dict(message) for message in messages],
            "add_generation_prompt": add_generation_prompt,
            **arguments,
        }
        pieces: list[str] = []
        length = 0
        try:
            with _deadline():
                for piece in self._template.generate(values):
                    length += len(piece)
                    if length > MAX_CHARACTERS:
                        raise PromptError("the chat template writes without end")
                    pieces.append(piece)
        except PromptError:
            raise
        except (jinja2.TemplateError, RecursionError, MemoryError) as error:
            raise PromptError(f"the chat template fails: {error}") from None
        except (
            TypeError,
            ValueError,
            KeyError,
            IndexError,
            AttributeError,
            ArithmeticError,
        ) as error:
            raise PromptError(
                f"the chat template fails on these messages: {type(error).__name__}: {error}"
            ) from None
        return "".join(pieces)


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """The sandbox, with limits on what one operation or call can make."""

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" and (_size(left) > 1000 or _size(right) > 64):
            raise PromptError("the chat template raises a number to a huge power")
        if (
            operator == "*"
            and _size(left) * _size(right) > MAX_OPERAND
            and not (isinstance(left, (int, float)) and isinstance(right, (int, float)))
        ):
            raise PromptError("the chat template repeats text without end")
        if operator == "+" and _size(left) + _size(right) > MAX_CHARACTERS and _sized(left):
            raise PromptError("the chat template joins text without end")
        if operator == "%" and isinstance(left, str):
            raise PromptError("the chat template formats text in a way that is not allowed")
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        for value in (*args, *kwargs.values()):
            if isinstance(value, int) and abs(value) > MAX_OPERAND:
                raise PromptError("the chat template calls something with a huge number")
        return super().call(context, function, *args, **kwargs)


class _GenerationTag(jinja2.ext.Extension):
    """`{% generation %}` marks answers for training; rendering just shows what is inside."""

    tags = {"generation"}  # noqa: RUF012  (how jinja2 declares it)

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node | list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _sized(value: Any) -> bool:
    return isinstance(value, (str, list, tuple, bytes))


def _size(value: Any) -> int:
    if _sized(value):
        return len(value)
    return abs(int(value)) if isinstance(value, (int, float)) and abs(value) < 1e18 else 1


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON, as the templates of the models expect it, not escaped for HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent if indent is None else min(int(indent), 16),
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> None:
    raise PromptError(f"the model's chat template refuses these messages: {message}")


def _format_now(pattern: str) -> str:
    return datetime.datetime.now().astimezone().strftime(pattern[:256])


@contextmanager
def _deadline() -> Iterator[None]:
    """Raise PromptError out of Python code that runs longer than MAX_SECONDS.

    A compiled template is Python; the trace function sees each of its lines, so that a loop
    without end ends. It costs nothing to threads other than this one.
    """
    until = time.monotonic() + MAX_SECONDS
    before: Any = sys.gettrace()

    def on_line(_frame: FrameType, _event: str, _argument: object) -> Callable[..., Any]:
        if time.monotonic() > until:
            raise PromptError(f"the chat template takes longer than {MAX_SECONDS:.0f} seconds")
        return on_line

    sys.settrace(on_line)
    try:
        yield
    finally:
        sys.settrace(before)
