"""From the engine's events to Anthropic's documents: one message, or the events of a stream.

message_start, ping
for each block:  content_block_start, content_block_delta ..., content_block_stop
message_delta (stop reason and usage), message_stop
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from runtime_stub.engine.messages import (
    Event,
    Failed,
    Finished,
    PromptRead,
    Reasoning,
    Text,
    ToolCall,
    Usage,
)
from runtime_stub.server.answer import Answer, Call, Choice
from runtime_stub.server.anthropic_types import (
    ErrorDetail,
    ErrorReply,
    MessageReply,
    TextBlock,
    ThinkingBlock,
    TokenUsage,
    ToolUseBlock,
)
from runtime_stub.server.replies import Problem, problem_of, sse

_PING: dict[str, Any] = {"type": "ping"}
_STOP_REASONS = {"length": "max_tokens", "tool_calls": "tool_use"}
_ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
}
_TYPE_OF_CODE = {"busy": "overloaded_error", "timeout": "timeout_error"}


def error_reply(problem: Problem) -> ErrorReply:
    """A problem in Anthropic's shape."""
    kind = "api_error" if problem.status >= 500 else "invalid_request_error"
    kind = _ERROR_TYPES.get(problem.status, kind)
    kind = _TYPE_OF_CODE.get(problem.code or "", kind)
    return ErrorReply(error=ErrorDetail(kind, problem.message))


class Replies:
    """Builds the documents that answer one request."""

    def __init__(self, identity: str, model: str, *, thinking: bool) -> None:
        """`thinking`: whether the client is told what the model thinks."""
        self._identity = identity
        self._model = model
        self._thinking = thinking
        self._begun = False
        self._blocks = _Blocks()

    def whole(self, answer: Answer) -> MessageReply:
        """The answer as one message."""
        choice = answer.choices[0]
        reason = stop_reason(choice.reason, choice.stop)
        return self._message(self._content(choice), reason, answer.usage, choice.stop)

    def take(self, event: Event | None) -> bytes:
        """The server-sent events of a stream that tell of an event."""
        if event is None:
            return sse(_PING, "ping")
        documents: list[dict[str, Any]] = []
        if not self._begun:
            self._begun = True
            documents += self._start(event)
        if isinstance(event, Failed):
            documents.append(msgspec.to_builtins(error_reply(problem_of(event))))
        elif self._thinking or not isinstance(event, Reasoning):
            documents += self._blocks.add(event)
        if isinstance(event, Finished):
            documents += _end(event)
        return b"".join(sse(document, document["type"]) for document in documents)

    def _content(self, choice: Choice) -> list[TextBlock | ThinkingBlock | ToolUseBlock]:
        """The blocks of a whole message, in the order in which they came."""
        content: list[TextBlock | ThinkingBlock | ToolUseBlock] = []
        for part in choice.course:
            last = content[-1] if content else None
            if isinstance(part, Call):
                content += _use(part)
            elif part.kind is Reasoning:
                content += [ThinkingBlock(part.text)] if self._thinking else []
            elif isinstance(last, TextBlock):  # what stood between is not shown
                last.text += part.text
            elif part.text:
                content.append(TextBlock(part.text))
        return content

    def _start(self, first: Event) -> list[dict[str, Any]]:
        read = first if isinstance(first, PromptRead) else PromptRead(0, 0)
        usage = Usage(read.tokens, read.cached, 0, 0.0, 0.0)
        return [{"type": "message_start", "message": self._message([], None, usage)}, _PING]

    def _message(
        self,
        content: list[TextBlock | ThinkingBlock | ToolUseBlock],
        reason: str | None,
        usage: Usage,
        stop: str | None = None,
    ) -> MessageReply:
        return MessageReply(
            id=f"msg_{self._identity}",
            model=self._model,
            content=content,
            stop_reason=reason,
            stop_sequence=stop,
            usage=_usage(usage),
        )


class _Blocks:
    """Opens and closes the blocks of a message as its pieces come."""

    def __init__(self) -> None:
        self._index = -1
        self._open: tuple[str, int] | None = None
        """What the block that is open holds: a type, and for calls their number."""

    def add(self, event: Event) -> Iterator[dict[str, Any]]:
        """The documents that tell of `event`."""
        if isinstance(event, Reasoning):
            yield from self._switch("thinking", ThinkingBlock(""))
            yield self._delta({"type": "thinking_delta", "thinking": event.text})
        elif isinstance(event, Text) and event.text:
            yield from self._switch("text", TextBlock(""))
            yield self._delta({"type": "text_delta", "text": event.text})
        elif isinstance(event, ToolCall):
            block = ToolUseBlock(event.identity, event.name, {})
            yield from self._switch("tool_use", block, event.index)
            if event.arguments:
                yield self._delta({"type": "input_json_delta", "partial_json": event.arguments})
        elif isinstance(event, Finished):
            yield from self._close()

    def _switch(
        self, kind: str, block: TextBlock | ThinkingBlock | ToolUseBlock, number: int = 0
    ) -> Iterator[dict[str, Any]]:
        if self._open == (kind, number):
            return
        yield from self._close()
        self._open = (kind, number)
        self._index += 1
        yield {"type": "content_block_start", "index": self._index, "content_block": block}

    def _close(self) -> Iterator[dict[str, Any]]:
        if self._open is not None:
            self._open = None
            yield {"type": "content_block_stop", "index": self._index}

    def _delta(self, delta: dict[str, str]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}


def stop_reason(reason: str, stop: str | None) -> str:
    """Why an answer ended; `stop` is the stop sequence, if one ended it."""
    if stop is not None:
        return "stop_sequence"
    return _STOP_REASONS.get(reason, "end_turn")


def _use(call: Call) -> list[ToolUseBlock]:
    """Its block; none where its arguments are no object, as those of one that was cut off."""
    try:
        arguments = msgspec.json.decode(call.arguments or "{}", type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        return []
    return [ToolUseBlock(call.identity, call.name, arguments)]


def _usage(usage: Usage) -> TokenUsage:
    return TokenUsage(
        input_tokens=usage.prompt_tokens - usage.cached_tokens,
        cache_read_input_tokens=usage.cached_tokens,
        output_tokens=usage.completion_tokens,
    )


def _end(event: Finished) -> list[dict[str, Any]]:
    delta = {
        "stop_reason": stop_reason(event.reason, event.stop),
        "stop_sequence": event.stop,
    }
    return [
        {"type": "message_delta", "delta": delta, "usage": _usage(event.usage)},
        {"type": "message_stop"},
    ]
