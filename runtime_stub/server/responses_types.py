"""What goes into OpenAI's /v1/responses."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from runtime_stub.server.sampling import SamplingFields


class InputText(msgspec.Struct, tag_field="type", tag="input_text"):
    """A piece of text from the user."""

    text: str


class OutputText(msgspec.Struct, tag_field="type", tag="output_text"):
    """A piece of text from the assistant, sent back."""

    text: str


class Refusal(msgspec.Struct, tag_field="type", tag="refusal"):
    """The assistant's refusal, sent back."""

    refusal: str


class ReasoningText(msgspec.Struct, tag_field="type", tag="reasoning_text"):
    """A piece of the assistant's reasoning, sent back."""

    text: str


Part = InputText | OutputText | Refusal


class MessageItem(msgspec.Struct, tag_field="type", tag="message"):
    """A message."""

    role: str
    content: str | list[Part]


class CallItem(msgspec.Struct, tag_field="type", tag="function_call"):
    """A call the assistant made."""

    call_id: str
    name: str
    arguments: str


class CallOutputItem(msgspec.Struct, tag_field="type", tag="function_call_output"):
    """What a call brought."""

    call_id: str
    output: str | list[InputText]


class ReasoningItem(msgspec.Struct, tag_field="type", tag="reasoning"):
    """What the assistant thought, sent back."""

    content: list[ReasoningText] | None = None


Item = MessageItem | CallItem | CallOutputItem | ReasoningItem


class FunctionTool(msgspec.Struct, tag_field="type", tag="function"):
    """A function the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class NamedFunction(msgspec.Struct, tag_field="type", tag="function"):
    """The function that must be called."""

    name: str


class TextFormat(msgspec.Struct, tag_field="type", tag="text"):
    """An answer of any form."""


class JsonFormat(msgspec.Struct, tag_field="type", tag="json_object"):
    """An answer that is a JSON object."""


class SchemaFormat(msgspec.Struct, tag_field="type", tag="json_schema"):
    """An answer that is valid under a JSON schema."""

    schema: dict[str, Any]
    name: str = ""
    description: str | None = None
    strict: bool | None = None


class TextOptions(msgspec.Struct):
    """What the text of the answer is like."""

    format: TextFormat | JsonFormat | SchemaFormat | None = None


class ReasoningOptions(msgspec.Struct):
    """How the model thinks. The summary is never made; reasoning itself is returned."""

    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None


class PromptCacheOptions(msgspec.Struct):
    """How long prompts are kept, and which. Here that is decided when the server is started: what
    else there is of them has no effect."""

    prewarm: bool | None = None
    """Refused if true: that asks for no answer."""


class ResponseRequest(SamplingFields, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /v1/responses. Nothing is stored."""

    input: str | list[Any]
    """A text, or items: messages (their "type" may be missing), "function_call",
    "function_call_output" and "reasoning"."""
    model: str = "default"
    instructions: str | None = None
    stream: bool | None = None
    max_output_tokens: int | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedFunction | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    top_logprobs: int | None = None
    include: list[str] | None = None
    """"message.output_text.logprobs" has an effect."""
    metadata: dict[str, str] | None = None
    """Comes back as it is."""
    previous_response_id: str | None = None
    """Refused: send the whole conversation as `input`."""
    conversation: Any = None
    """Refused, likewise."""
    background: bool | None = None
    """Refused if true."""
    truncation: Literal["auto", "disabled"] | None = None
    """"auto" is refused."""
    context_management: list[Any] | None = None
    """Refused if anything is in it."""
    max_tool_calls: int | None = None
    """Without effect: it is about tools that run elsewhere."""
    store: bool | None = None
    """Nothing is stored, whatever it says."""
    stream_options: Any = None
    user: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_options: PromptCacheOptions | None = None
    prompt_cache_retention: Any = None
    chat_template_kwargs: dict[str, Any] | None = None
    """Further variables for the chat template."""
