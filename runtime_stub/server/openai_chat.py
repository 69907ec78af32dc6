"""Answers to chat requests in OpenAI's shape, whole or in chunks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.json import encode

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
from runtime_stub.server.bridge import KEEP_ALIVE
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
from runtime_stub.server.replies import problem_of, sse

DONE = b"data: [DONE]\n\n"
_PLACE = "\0"


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
    """Makes the chunks of one answer that is streamed."""

    def __init__(self, head: Head, *, usage: bool) -> None:
        """With `usage`, the stream ends with a chunk of it."""
        self._head = head
        self._usage = usage
        self._around: dict[int, tuple[bytes, bytes]] = {}
        """What stands before and after a choice's pieces of text: all the same but for them."""

    async def stream(
        self, events: AsyncIterator[Event | None], choices: int
    ) -> AsyncIterator[bytes]:
        """The stream of server-sent events."""
        for number in range(choices):
            yield self._sse(number, Delta(role="assistant", content=""))
        open_choices = set(range(choices))
        async for event in events:
            if event is None:
                yield KEEP_ALIVE
            elif isinstance(event, Failed):
                yield sse(error_reply(problem_of(event)))
                return
            elif isinstance(event, Text):
                yield self._text(event)
            elif isinstance(event, Reasoning):
                yield self._sse(event.choice, Delta(reasoning_content=event.text))
            elif isinstance(event, CallPiece):
                yield self._sse(event.choice, Delta(tool_calls=[_piece(event)]))
            elif isinstance(event, ChoiceEnd):
                open_choices.discard(event.choice)
                yield self._sse(event.choice, Delta(), finish_reason(event.reason))
            elif isinstance(event, Finished):
                for number in sorted(open_choices):
                    yield self._sse(number, Delta(), finish_reason(event.reason))
                if self._usage:
                    yield sse(self._chunk([], usage_of(event.usage)))
        yield DONE

    def _text(self, event: Text) -> bytes:
        number = event.choice
        if event.logprobs:
            return self._sse(number, Delta(content=event.text), None, logprobs_of(event.logprobs))
        if number not in self._around:
            # Nothing that follows it in a chunk is text that somebody chose.
            before, _, after = self._sse(number, Delta(content=_PLACE)).rpartition(encode(_PLACE))
            self._around[number] = before, after
        before, after = self._around[number]
        return before + encode(event.text) + after

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
