"""What comes out of OpenAI's /v1/responses."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from runtime_stub.engine.messages import Usage
from runtime_stub.server.openai_types import Logprob
from runtime_stub.server.responses_types import ReasoningText

Document = dict[str, Any]


class TextContent(msgspec.Struct, kw_only=True, tag_field="type", tag="output_text"):
    """The text of a message."""

    text: str = ""
    annotations: list[Any] = []
    logprobs: list[Logprob] = []


class MessageOutput(msgspec.Struct, kw_only=True, tag_field="type", tag="message"):
    """The assistant's message."""

    id: str
    status: str = "in_progress"
    role: Literal["assistant"] = "assistant"
    content: list[TextContent]


class ReasoningOutput(msgspec.Struct, kw_only=True, tag_field="type", tag="reasoning"):
    """What the model thought."""

    id: str
    status: str = "in_progress"
    summary: list[Any] = []
    content: list[ReasoningText]


class CallOutput(msgspec.Struct, kw_only=True, tag_field="type", tag="function_call"):
    """A function the model wants called."""

    id: str
    status: str = "in_progress"
    call_id: str
    name: str
    arguments: str = ""


Output = MessageOutput | ReasoningOutput | CallOutput


class InputDetails(msgspec.Struct):
    """Of the input's tokens."""

    cached_tokens: int
    """Those that did not have to be read again."""
    cache_write_tokens: int = 0
    """Not counted apart."""


class OutputDetails(msgspec.Struct):
    """Of the answer's tokens."""

    reasoning_tokens: int = 0
    """Not counted apart."""


class ResponseUsage(msgspec.Struct, kw_only=True):
    """Counts in tokens."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class ResponseError(msgspec.Struct):
    """Why there is no answer."""

    code: str
    message: str


class Incomplete(msgspec.Struct):
    """Why an answer ended early."""

    reason: str


class Response(msgspec.Struct, kw_only=True):
    """An answer, with what was asked for."""

    id: str
    created_at: int
    model: str
    status: str = "in_progress"
    output: list[Output]
    error: ResponseError | None = None
    incomplete_details: Incomplete | None = None
    usage: ResponseUsage | None = None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    previous_response_id: None = None
    reasoning: Document
    store: bool = False
    temperature: float
    text: Document
    tool_choice: Any
    tools: list[Any]
    top_logprobs: int
    top_p: float
    truncation: str = "disabled"
    background: bool = False
    object: Literal["response"] = "response"


def usage_of(counts: Usage) -> ResponseUsage:
    """Token counts in this shape."""
    return ResponseUsage(
        input_tokens=counts.prompt_tokens,
        input_tokens_details=InputDetails(counts.cached_tokens),
        output_tokens=counts.completion_tokens,
        output_tokens_details=OutputDetails(),
        total_tokens=counts.prompt_tokens + counts.completion_tokens,
    )
