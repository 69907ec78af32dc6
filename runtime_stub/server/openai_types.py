"""What goes in and out of the OpenAI face's chat and what its operations share.

Shapes follow OpenAI's API reference; further fields are llama.cpp's.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from runtime_stub.engine.messages import Usage as Counts
from runtime_stub.server.sampling import SamplingFields


class Harmless(SamplingFields, kw_only=True, forbid_unknown_fields=True):
    """Fields that say nothing about the answer itself: accepted, and without effect.

    OpenAI's clients send some of them always. Every other unknown field is an error.
    """

    user: Any = None
    metadata: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None


class TextPart(msgspec.Struct, tag_field="type", tag="text"):
    """A piece of text in a message."""

    text: str


class RefusalPart(msgspec.Struct, tag_field="type", tag="refusal"):
    """The assistant's refusal, as a piece of its message."""

    refusal: str


class CalledFunction(msgspec.Struct):
    """What was called."""

    name: str
    arguments: str
    """JSON text."""


class ToolCall(msgspec.Struct):
    """A call the assistant made."""

    id: str
    function: CalledFunction
    type: Literal["function"] = "function"


class Message(msgspec.Struct):
    """One message of a chat. Clients send back what they got: other fields are ignored."""

    role: str
    content: str | list[TextPart | RefusalPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None


class Function(msgspec.Struct):
    """A function the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """A JSON schema of its arguments."""
    strict: bool | None = None
    """Without effect: calls that must be made always follow the schema."""


class Tool(msgspec.Struct, forbid_unknown_fields=True):
    """Something the model may use: functions are all there is."""

    function: Function
    type: Literal["function"] = "function"


class NamedFunction(msgspec.Struct):
    """The function that must be called."""

    name: str


class NamedTool(msgspec.Struct, tag_field="type", tag="function"):
    """The tool that must be used."""

    function: NamedFunction


class TextFormat(msgspec.Struct, tag_field="type", tag="text"):
    """An answer of any form."""


class JsonFormat(msgspec.Struct, tag_field="type", tag="json_object", forbid_unknown_fields=True):
    """An answer that is a JSON object."""

    schema: dict[str, Any] | None = None
    """What it must be valid under (llama.cpp's addition)."""


class JsonSchema(msgspec.Struct):
    """A named JSON schema."""

    schema: dict[str, Any]
    name: str = ""
    description: str | None = None
    strict: bool | None = None
    """Always taken for true."""


class SchemaFormat(msgspec.Struct, tag_field="type", tag="json_schema"):
    """An answer that is valid under a JSON schema."""

    json_schema: JsonSchema


class StreamOptions(msgspec.Struct):
    """How a stream is sent."""

    include_usage: bool = False
    include_obfuscation: bool | None = None
    """Without effect."""


class AdapterChoice(msgspec.Struct, forbid_unknown_fields=True):
    """A LoRA adapter to answer with, by its name or as llama-server numbers them."""

    name: str | None = None
    id: int | None = None
    scale: float | None = None


class GenerationFields(Harmless, kw_only=True, forbid_unknown_fields=True):
    """What both ways to have text generated share."""

    grammar: str | None = None
    """GBNF that the answer must follow."""
    lora: list[AdapterChoice] | None = None
    """Adapters to answer with, instead of those that the model's name means."""
    cache_prompt: bool | None = None
    """With false, all of the prompt is read, whatever was read before: when it is alone, the same
    request gets the same answer from any model, bit by bit."""


class ChatRequest(GenerationFields, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /v1/chat/completions."""

    messages: list[Message]
    model: str = "default"
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: str | list[str] | None = None
    n: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: TextFormat | JsonFormat | SchemaFormat | None = None
    reasoning_effort: str | None = None
    """Told to the chat template; "none" turns reasoning off where the model can."""
    reasoning_format: Literal["auto", "none", "deepseek"] | None = None
    """With "none", reasoning is part of the content."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Further variables for the chat template."""
    store: bool | None = None
    """Nothing is stored, whatever it says."""
    modalities: list[Literal["text"]] | None = None
    prediction: Any = None
    """Without effect, but for speed elsewhere."""
    verbosity: Any = None
    """Without effect."""


class CachedTokens(msgspec.Struct):
    """Of the prompt's tokens, those that did not have to be read again."""

    cached_tokens: int = 0


class Usage(msgspec.Struct):
    """Counts in tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


def usage_of(counts: Counts) -> Usage:
    """Token counts in OpenAI's shape."""
    return Usage(
        counts.prompt_tokens,
        counts.completion_tokens,
        counts.prompt_tokens + counts.completion_tokens,
        CachedTokens(counts.cached_tokens),
    )


class TopLogprob(msgspec.Struct):
    """A token that was probable."""

    token: str
    logprob: float
    bytes: list[int]


class Logprob(msgspec.Struct):
    """A token that was chosen."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class Logprobs(msgspec.Struct):
    """The probabilities of an answer's tokens."""

    content: list[Logprob]
    refusal: None = None


class ReplyMessage(msgspec.Struct):
    """The assistant's message."""

    content: str | None
    role: Literal["assistant"] = "assistant"
    refusal: None = None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET


class ReplyChoice(msgspec.Struct):
    """One of the answers."""

    index: int
    message: ReplyMessage
    finish_reason: str
    logprobs: Logprobs | None = None


class ChatCompletion(msgspec.Struct, kw_only=True):
    """A whole answer."""

    id: str
    created: int
    """Seconds since 1970."""
    model: str
    choices: list[ReplyChoice]
    usage: Usage
    object: Literal["chat.completion"] = "chat.completion"


class FunctionDelta(msgspec.Struct):
    """A piece of a call."""

    arguments: str
    name: str | UnsetType = UNSET


class ToolCallDelta(msgspec.Struct):
    """A call the assistant begins or goes on with."""

    index: int
    function: FunctionDelta
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET


class Delta(msgspec.Struct):
    """What is new in a message."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCallDelta] | UnsetType = UNSET


class ChunkChoice(msgspec.Struct):
    """What is new in one of the answers."""

    index: int
    delta: Delta
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class ChatChunk(msgspec.Struct, kw_only=True):
    """A piece of an answer that is streamed."""

    id: str
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | UnsetType | None = UNSET
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
