"""The documents that clients of Anthropic's Messages API send and get.

Shapes follow Anthropic's API reference. Unknown fields are ignored, so that clients which send
the latest ones are answered: caching, metadata and the like mean nothing to a pack.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class TextBlock(msgspec.Struct, tag_field="type", tag="text"):
    """A text."""

    text: str


class ThinkingBlock(msgspec.Struct, tag_field="type", tag="thinking"):
    """What the assistant thought before it answered."""

    thinking: str
    signature: str = ""
    """Always empty in replies: nothing here is signed."""


class RedactedThinkingBlock(msgspec.Struct, tag_field="type", tag="redacted_thinking"):
    """Thoughts that only another server can read; left out."""

    data: str = ""


class ToolUseBlock(msgspec.Struct, tag_field="type", tag="tool_use"):
    """A tool that the assistant wants used."""

    id: str
    name: str
    input: dict[str, Any]


class ImageBlock(msgspec.Struct, tag_field="type", tag="image"):
    """A picture. Refused."""


class DocumentBlock(msgspec.Struct, tag_field="type", tag="document"):
    """A file. Refused."""


class ToolResultBlock(msgspec.Struct, tag_field="type", tag="tool_result"):
    """What using a tool brought."""

    tool_use_id: str
    content: str | list[TextBlock | ImageBlock | DocumentBlock] | None = None
    is_error: bool | None = None


Block = (
    TextBlock
    | ThinkingBlock
    | RedactedThinkingBlock
    | ToolUseBlock
    | ToolResultBlock
    | ImageBlock
    | DocumentBlock
)


class Message(msgspec.Struct):
    """One message of a conversation."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class Tool(msgspec.Struct):
    """A tool that is offered."""

    name: str
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    type: str | None = None
    """None or "custom": tools that run at Anthropic do not run here."""


class ToolChoice(msgspec.Struct):
    """Whether tools are to be used."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(msgspec.Struct):
    """Whether to think first. Without it the model is asked not to."""

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    """With "between_tools" it is asked not to, either: what is said between tools is text here."""
    budget_tokens: int | None = None
    """Accepted; there is no limit of its own for thinking."""
    display: str | None = None
    """With "omitted" thoughts are not sent."""


class OutputFormat(msgspec.Struct):
    """What form the answer must have."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(msgspec.Struct):
    """How to answer."""

    format: OutputFormat | None = None


class CountRequest(msgspec.Struct):
    """The body of POST /v1/messages/count_tokens."""

    model: str
    messages: list[Message]
    system: str | list[TextBlock] | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None


class MessagesRequest(CountRequest, kw_only=True):
    """The body of POST /v1/messages."""

    max_tokens: int
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    output_config: OutputConfig | None = None
    metadata: dict[str, Any] | None = None
    """Accepted; nothing is done with it."""


class TokenUsage(msgspec.Struct, kw_only=True):
    """How many tokens there were; all that were read are the sum of the three for input."""

    input_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int
    output_tokens: int


class MessageReply(msgspec.Struct, kw_only=True):
    """The reply to POST /v1/messages."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[TextBlock | ThinkingBlock | ToolUseBlock]
    stop_reason: str | None
    """ "end_turn", "max_tokens", "stop_sequence" or "tool_use"."""
    stop_sequence: str | None = None
    usage: TokenUsage


class TokenCount(msgspec.Struct):
    """The reply to POST /v1/messages/count_tokens."""

    input_tokens: int


class ErrorDetail(msgspec.Struct):
    """What went wrong."""

    type: str
    message: str


class ErrorReply(msgspec.Struct, kw_only=True):
    """A request that failed."""

    type: Literal["error"] = "error"
    error: ErrorDetail
