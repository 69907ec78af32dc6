"""Answers to chat requests in OpenAI's shape, whole or in chunks."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import UNSET, UnsetType

from runtime_stub.engine.messages import (
    ChoiceEnd,
    Event,
    Failed,
    Finished,
    Reasoning,
    Text,
    TokenLogprob,
)
from runtime_stub.engine.messages import ToolCall as CallPiece
from runtime_stub.server.answer import Answer, Choice
from runtime_stub.server.openai_errors import error_reply
from runtime_stub.server.openai_types import (
    CalledFunction,
    ChatChunk,
    ChatCompletion,
    ChunkChoice,
    Delta,
    FunctionDelta,
    Logprob,
    Logprobs,
    ReplyChoice,
    ReplyMessage,
    ToolCall,
    ToolCallDelta,
    TopLogprob,
    Usage,
    usage_of,
)
from runtime_stub.server.replies import Mould, problem_of, sse
from runtime_stub.server.streaming import KEEP_ALIVE

DONE = b"data: [DONE]\n\n"


class Head(msgspec.Struct):
    """What all pieces of an answer have in common."""

    id: str
    created: int
    """Seconds since 1970."""
    model: str


def finish_reason(reason: str) -> str:
    """Why a choice ended, in OpenAI's words: they have none for a request that was cancelled."""
    return "stop" if reason == "cancelled" else reason


def logprobs_of(tokens: Sequence[TokenLogprob]) -> Logprobs:
    """The probabilities of tokens."""
    return Logprobs(
        [
            Logprob(
                token.text,
                token.logprob,
                list(token.raw),
                [TopLogprob(text, logprob, list(raw)) for text, raw, logprob in token.top],
            )
            for token in tokens
        ]
    )


def completion(answer: Answer, head: Head, *, logprobs: bool) -> ChatCompletion:
    """The reply to a request that is not streamed."""
    return ChatCompletion(
        id=head.id,
        created=head.created,
        model=head.model,
        choices=[
            ReplyChoice(
                number,
                _message(choice),
                finish_reason(choice.reason),
                logprobs_of(choice.logprobs) if logprobs else None,
            )
            for number, choice in enumerate(answer.choices)
        ],
        usage=usage_of(answer.usage),
    )


def _message(choice: Choice) -> ReplyMessage:
    calls = [
        ToolCall(call.identity, CalledFunction(call.name, call.arguments)) for call in choice.calls
    ]
    return ReplyMessage(
        content=choice.text or (None if calls else ""),
        reasoning_content=choice.reasoning or UNSET,
        tool_calls=calls or UNSET,
    )


class Chunks:
    """Makes the chunks of one answer that is streamed, as server-sent events."""

    def __init__(self, head: Head, choices: int, *, usage: bool) -> None:
        """With `usage`, the stream ends with a chunk of it."""
        self._head = head
        self._usage = usage
        self._begun = False
        self._open = dict.fromkeys(range(choices))
        """The choices that are not complete, in order."""
        self._moulds: dict[int, Mould] = {}
        """For the pieces of a choice's text."""

    def take(self, event: Event | None) -> bytes:
        """The chunks that tell of an event."""
        if type(event) is Text and event.choice in self._moulds and not event.logprobs:
            return self._moulds[event.choice].fill(event.text)  # nearly always
        if event is None:
            return KEEP_ALIVE
        if self._begun:
            return self._tell(event)
        self._begun = True
        begin = [self._sse(number, Delta(role="assistant", content="")) for number in self._open]
        return b"".join(begin) + self._tell(event)

    def _tell(self, event: Event) -> bytes:
        if isinstance(event, Text):
            return self._text(event)
        if isinstance(event, Failed):
            return sse(error_reply(problem_of(event)))
        if isinstance(event, Reasoning):
            return self._sse(event.choice, Delta(reasoning_content=event.text))
        if isinstance(event, CallPiece):
            return self._sse(event.choice, Delta(tool_calls=[_piece(event)]))
        if isinstance(event, ChoiceEnd):
            self._open.pop(event.choice, None)
            return self._sse(event.choice, Delta(), finish_reason(event.reason))
        if isinstance(event, Finished):
            return self._end(event)
        return b""

    def _end(self, event: Finished) -> bytes:
        reason = finish_reason(event.reason)
        end = [self._sse(number, Delta(), reason) for number in self._open]
        if self._usage:
            end.append(sse(self._chunk([], usage_of(event.usage))))
        return b"".join(end) + DONE

    def _text(self, event: Text) -> bytes:
        number = event.choice
        if event.logprobs:
            return self._sse(number, Delta(content=event.text), None, logprobs_of(event.logprobs))
        mould = Mould(lambda text: self._sse(number, Delta(content=text)))
        self._moulds[number] = mould
        return mould.fill(event.text)

    def _sse(
        self,
        number: int,
        delta: Delta,
        reason: str | None = None,
        logprobs: Logprobs | None = None,
    ) -> bytes:
        # Clients that asked for usage find it in every chunk: null until it is known.
        usage = None if self._usage else UNSET
        return sse(self._chunk([ChunkChoice(number, delta, reason, logprobs)], usage))

    def _chunk(self, choices: list[ChunkChoice], usage: Usage | UnsetType | None) -> ChatChunk:
        head = self._head
        return ChatChunk(
            id=head.id, created=head.created, model=head.model, choices=choices, usage=usage
        )


def _piece(event: CallPiece) -> ToolCallDelta:
    if not event.name:
        return ToolCallDelta(event.index, FunctionDelta(event.arguments))
    function = FunctionDelta(event.arguments, event.name)
    return ToolCallDelta(event.index, function, event.identity, "function")
