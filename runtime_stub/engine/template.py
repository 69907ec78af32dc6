"""Chat templates: the model's own Jinja, rendered in a sandbox.

A template comes with the model, from a stranger. Jinja's sandbox keeps it away from
attributes and files, but not from time and memory; `sandbox` bounds those.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2

from runtime_stub.engine.sandbox import BoundedEnvironment
from runtime_stub.errors import PromptError

MAX_CHARACTERS = 16_000_000
"""Longest prompt."""
MAX_SOURCE = 512 << 10
"""Longest template, in characters; those of real models have some thousands."""
_LONGEST_REASON = 500

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
        self._environment = BoundedEnvironment()
        self._environment.globals["raise_exception"] = _raise_exception
        self._environment.globals["strftime_now"] = _format_now
        if len(source) > MAX_SOURCE:
            raise PromptError(f"the chat template is longer than {MAX_SOURCE:,} characters")
        try:
            with self._environment.bounded():
                self._template = self._environment.from_string(source)
        except PromptError:
            raise
        except Exception as error:  # noqa: BLE001  (Jinja and Python's compiler have many)
            raise PromptError(f"the chat template is not valid: {_brief(error)}") from None

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
            with self._environment.bounded():
                for piece in self._template.generate(values):
                    length += len(piece)
                    if length > MAX_CHARACTERS:
                        raise PromptError("the chat template writes without end")
                    pieces.append(piece)
        except PromptError:
            raise
        except jinja2.TemplateError as error:
            raise PromptError(f"the chat template fails: {_brief(error)}") from None
        except Exception as error:  # noqa: BLE001  (it is a stranger's program)
            raise PromptError(
                f"the chat template fails on these messages: "
                f"{type(error).__name__}: {_brief(error)}"
            ) from None
        return "".join(pieces)


def _raise_exception(message: object) -> None:
    text = str(message)[:_LONGEST_REASON]
    raise PromptError(f"the model's chat template refuses these messages: {text}")


def _format_now(pattern: str) -> str:
    return datetime.datetime.now().astimezone().strftime(pattern[:256])


def _brief(error: Exception) -> str:
    return str(error)[:_LONGEST_REASON] or type(error).__name__
