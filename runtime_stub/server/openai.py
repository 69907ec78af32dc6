"""The OpenAI face: its request and response shapes, and nothing about HTTP.

Shapes follow OpenAI's API reference for chat completions.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from runtime_stub.engine.messages import Event, Finished, Request, Sampling, Text, Usage
from runtime_stub.errors import RecipeError
from runtime_stub.recipe import SAMPLING, check_value


class TextPart(msgspec.Struct, tag_field="type", tag="text", forbid_unknown_fields=True):
    """One piece of a message's content."""

    text: str


class Message(msgspec.Struct):
    """One message of a chat."""

    role: str
    content: str | list[TextPart] | None = None
    name: str | None = None


class StreamOptions(msgspec.Struct):
    """How a stream is sent."""

    include_usage: bool = False


class ChatRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /v1/chat/completions, as far as it is supported.

    Fields that clients send without meaning anything by it are accepted and ignored.
    """

    messages: list[Message]
    model: str = "default"
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repeat_penalty: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: str | list[str] | None = None
    n: int | None = None
    user: str | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None


_SAMPLING_FIELDS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "frequency_penalty",
    "presence_penalty",
    "repeat_penalty",
    "seed",
)
MAX_STOPS = 16


def parse_chat(body: bytes) -> ChatRequest:
    """Decode a request body. Raises ValueError whose text names the field."""
    try:
        return msgspec.json.decode(body, type=ChatRequest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def engine_request(
    chat: ChatRequest, defaults: Sampling, system: str | None, max_tokens: int | None
) -> Request:
    """What to ask the engine. The pack's own settings hold where the client says nothing.

    Raises ValueError for values that are out of bounds or not supported.
    """
    if not chat.messages:
        raise ValueError("messages must not be empty")
    if chat.n not in (None, 1):
        raise ValueError("n: only one choice per request is supported")
    sampling = {
        name: getattr(chat, name) for name in _SAMPLING_FIELDS if getattr(chat, name) is not None
    }
    try:
        for name, value in sampling.items():
            check_value(name, value, SAMPLING[name], "the request")
    except RecipeError as error:
        raise ValueError(error.message.removeprefix("the request: ")) from None
    limit = None
    for name in ("max_tokens", "max_completion_tokens"):
        asked: int | None = getattr(chat, name)
        if asked is not None and asked < 1:
            raise ValueError(f"{name} must be at least 1")
        limit = asked or limit
    stop = [chat.stop] if isinstance(chat.stop, str) else chat.stop or []
    if len(stop) > MAX_STOPS:
        raise ValueError(f"stop: at most {MAX_STOPS} texts are supported")
    messages = [_plain(message) for message in chat.messages]
    if system and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    return Request(
        messages=tuple(messages),
        sampling=replace(defaults, **sampling),
        max_tokens=limit or max_tokens,
        stop=tuple(stop),
    )


def _plain(message: Message) -> dict[str, Any]:
    content = message.content
    if isinstance(content, list):
        content = "".join(part.text for part in content)
    plain: dict[str, Any] = {"role": message.role, "content": content or ""}
    if message.name is not None:
        plain["name"] = message.name
    return plain


class ChatReply:
    """Builds the answer to one chat request, whole or in chunks, from the engine's events."""

    def __init__(self, identity: str, created: int, model: str) -> None:
        """`created` is in seconds since 1970."""
        self._head = {"id": f"chatcmpl-{identity}", "created": created, "model": model}
        self._text: list[str] = []
        self._reason = "stop"
        self._usage: Usage | None = None

    def add(self, event: Event) -> None:
        """Take one event into the whole answer."""
        if isinstance(event, Text):
            self._text.append(event.text)
        elif isinstance(event, Finished):
            self._reason = event.reason
            self._usage = event.usage

    def whole(self) -> dict[str, Any]:
        """The response body of a request that is not streamed."""
        message = {"role": "assistant", "content": "".join(self._text)}
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [
                {"index": 0, "message": message, "finish_reason": self._reason, "logprobs": None}
            ],
            "usage": usage_document(self._usage),
        }

    def first_chunk(self) -> dict[str, Any]:
        """The chunk that opens a stream."""
        return self._chunk({"role": "assistant", "content": ""}, None)

    def chunk(self, event: Event) -> dict[str, Any] | None:
        """The chunk for one event, None for events that clients are not told of."""
        if isinstance(event, Text):
            return self._chunk({"content": event.text}, None)
        if isinstance(event, Finished):
            return self._chunk({}, event.reason)
        return None

    def usage_chunk(self) -> dict[str, Any]:
        """The last chunk, for clients that asked for usage."""
        return {
            **self._head,
            "object": "chat.completion.chunk",
            "choices": [],
            "usage": usage_document(self._usage),
        }

    def _chunk(self, delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
        return {
            **self._head,
            "object": "chat.completion.chunk",
            "choices": [{"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}],
        }


def usage_document(usage: Usage | None) -> dict[str, Any]:
    """Token counts in OpenAI's shape."""
    prompt = usage.prompt_tokens if usage else 0
    completion = usage.completion_tokens if usage else 0
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens if usage else 0},
    }


def error_document(message: str, kind: str, code: str | None = None) -> dict[str, Any]:
    """An error in OpenAI's shape."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
