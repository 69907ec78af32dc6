"""From the engine's events to Ollama's documents: one whole, or a line for each piece."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from runtime_stub.engine.messages import (
    Event,
    Failed,
    Finished,
    Reasoning,
    Text,
    TokenLogprob,
    ToolCall,
    Usage,
)
from runtime_stub.server.answer import Answer, Call
from runtime_stub.server.ollama_models import timestamp
from runtime_stub.server.ollama_types import (
    ChatReply,
    Error,
    GenerateReply,
    Logprob,
    ReplyCall,
    ReplyFunction,
    ReplyMessage,
    TopLogprob,
)
from runtime_stub.server.replies import ndjson, problem_of


@dataclass(frozen=True)
class Piece:
    """What one document says."""

    text: str = ""
    thinking: str = ""
    calls: Sequence[ReplyCall] = ()
    logprobs: Sequence[TokenLogprob] = ()


class Replies:
    """Builds the documents that answer one request."""

    def __init__(self, model: str, *, chat: bool, thinking: bool = True) -> None:
        """`model` is what the client calls it. `chat`: ChatReply, otherwise GenerateReply.
        `thinking`: whether the client wants to see it."""
        self._model = model
        self._chat = chat
        self._thinking = thinking
        self._began = time.monotonic()
        self._called = Answer()
        """The calls of an answer that is streamed, and nothing else of it."""
        self._told = 0
        """How many of them."""

    def loaded(self, reason: str) -> ChatReply | GenerateReply:
        """The answer to a request that only wants the model to be loaded, or unloaded."""
        return self._document(Piece(), reason=reason)

    def whole(self, answer: Answer) -> ChatReply | GenerateReply:
        """The answer in one document."""
        choice = answer.choices[0]
        piece = Piece(
            choice.text,
            choice.reasoning if self._thinking else "",
            reply_calls(choice.calls),
            choice.logprobs,
        )
        return self._document(piece, reason=choice.reason, usage=answer.usage)

    def take(self, event: Event | None) -> bytes:
        """The lines of a stream that tell of an event; a call is in one of them as a whole. An
        idle stream is kept open with empty pieces, since clients take every line for a document."""
        documents: list[ChatReply | GenerateReply | Error] = []
        if made := self._complete_calls(event):
            documents.append(self._document(Piece(calls=made)))
        if isinstance(event, Text):
            documents.append(self._document(Piece(event.text, logprobs=event.logprobs)))
        elif isinstance(event, Reasoning) and self._thinking:
            documents.append(self._document(Piece(thinking=event.text)))
        elif isinstance(event, Failed):
            documents.append(Error(problem_of(event).message))
        elif isinstance(event, Finished):
            documents.append(self._document(Piece(), reason=event.reason, usage=event.usage))
        elif event is None:
            documents.append(self._document(Piece()))
        return b"".join(map(ndjson, documents))

    def _complete_calls(self, event: Event | None) -> list[ReplyCall]:
        """The calls that are complete since `event`, which may be a piece of the next."""
        if isinstance(event, ToolCall):
            self._called.add(event)
        if event is None or not self._called.choices:
            return []
        calls = self._called.choices[0].calls
        complete = len(calls) - 1 if isinstance(event, ToolCall) else len(calls)
        made = reply_calls(calls[self._told : complete], self._told)
        self._told = max(self._told, complete)
        return made

    def _document(
        self, piece: Piece, *, reason: str = "", usage: Usage | None = None
    ) -> ChatReply | GenerateReply:
        rest: dict[str, Any] = {
            "model": self._model,
            "created_at": timestamp(time.time()),
            "done": bool(reason),
            "done_reason": _REASONS.get(reason, reason),
            "logprobs": [_logprob(token) for token in piece.logprobs],
        }
        if usage is not None:
            rest.update(_timing(usage, time.monotonic() - self._began))
        if not self._chat:
            return GenerateReply(response=piece.text, thinking=piece.thinking, **rest)
        message = ReplyMessage(
            role="assistant",
            content=piece.text,
            thinking=piece.thinking,
            tool_calls=list(piece.calls),
        )
        return ChatReply(message=message, **rest)


_REASONS = {"tool_calls": "stop", "cancelled": "stop"}


def reply_calls(calls: Sequence[Call], first: int = 0) -> list[ReplyCall]:
    """The calls whose arguments are an object, which those of one that was cut off are not;
    `first` is the number of the first of them."""
    made = []
    for index, call in enumerate(calls, first):
        try:
            arguments = msgspec.json.decode(call.arguments or "{}", type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError):
            continue
        function = ReplyFunction(index=index, name=call.name, arguments=arguments)
        made.append(ReplyCall(id=call.identity, function=function))
    return made


def unit(vector: Sequence[float], dimensions: int | None) -> list[float]:
    """The first `dimensions` of a vector, brought to length 1 again; all of it for None."""
    if dimensions is None or dimensions >= len(vector):
        return list(vector)
    cut = vector[:dimensions]
    length = math.hypot(*cut) or 1.0
    return [value / length for value in cut]


def _timing(usage: Usage, total: float) -> dict[str, int]:
    waited = max(0.0, total - usage.prompt_seconds - usage.completion_seconds)
    return {
        "total_duration": nanoseconds(total),
        "load_duration": nanoseconds(waited),
        "prompt_eval_count": usage.prompt_tokens,
        "prompt_eval_duration": nanoseconds(usage.prompt_seconds),
        "eval_count": usage.completion_tokens,
        "eval_duration": nanoseconds(usage.completion_seconds),
    }


def nanoseconds(seconds: float) -> int:
    """Ollama's unit of time."""
    return int(seconds * 1e9)


def _logprob(token: TokenLogprob) -> Logprob:
    return Logprob(
        token=token.text,
        logprob=token.logprob,
        bytes=list(token.raw),
        top_logprobs=[
            TopLogprob(token=text, logprob=logprob, bytes=list(raw))
            for text, raw, logprob in token.top
        ],
    )
