"""Completions of raw text, in OpenAI's older shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from runtime_stub.engine.messages import (
    ChoiceEnd,
    Event,
    Failed,
    Finished,
    Request,
    Text,
    TokenLogprob,
)
from runtime_stub.server.answer import Answer
from runtime_stub.server.grammars import checked_grammar
from runtime_stub.server.openai_chat import DONE, Head, finish_reason
from runtime_stub.server.openai_errors import error_reply
from runtime_stub.server.openai_requests import MAX_CHOICES, MAX_LOGPROBS, adapters_of, bounded
from runtime_stub.server.openai_types import GenerationFields, StreamOptions, Usage, usage_of
from runtime_stub.server.replies import Mould, Problem, problem_of, sse
from runtime_stub.server.sampling import limit_or, sampling_of, stops
from runtime_stub.server.state import Served
from runtime_stub.server.streaming import KEEP_ALIVE

MAX_PROMPTS = 64


class CompletionRequest(GenerationFields, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /v1/completions."""

    prompt: str | list[str | int | list[int]]
    """A text or tokens to go on from, or several."""
    model: str = "default"
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    stop: str | list[str] | None = None
    n: int | None = None
    best_of: int | None = None
    """As many as `n`, if at all."""
    echo: bool | None = None
    logprobs: int | None = None
    """How many alternatives to give to each token."""
    suffix: str | None = None
    """Not supported."""


class OldLogprobs(msgspec.Struct):
    """The probabilities of an answer's tokens."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(msgspec.Struct):
    """One of the answers, or a piece of it."""

    index: int
    text: str
    finish_reason: str | None = None
    logprobs: OldLogprobs | None = None


class Completion(msgspec.Struct, kw_only=True):
    """An answer, or a piece of one that is streamed."""

    id: str
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | UnsetType | None = UNSET
    object: Literal["text_completion"] = "text_completion"


Prompt = str | tuple[int, ...]


def prompts_of(given: str | list[str | int | list[int]]) -> list[Prompt]:
    """The prompts one by one. Raises Problem for a mixture of kinds, and for none."""
    if isinstance(given, str):
        return [given]
    prompts: list[Prompt]
    if all(isinstance(item, int) for item in given):
        prompts = [_tokens(given)] if given else []
    elif any(isinstance(item, int) for item in given):
        raise Problem(400, "prompt: tokens and texts don't mix", "prompt")
    else:
        prompts = [item if isinstance(item, str) else _tokens(item) for item in given]  # type: ignore[arg-type]
    if not 1 <= len(prompts) <= MAX_PROMPTS:
        raise Problem(400, f"prompt: from 1 to {MAX_PROMPTS} prompts are supported", "prompt")
    return prompts


def _tokens(given: Sequence[Any]) -> tuple[int, ...]:
    if any(not 0 <= token < 2**31 for token in given):
        raise Problem(400, "prompt: tokens are whole numbers from 0", "prompt")
    return tuple(given)


async def completion_requests(asked: CompletionRequest, model: Served) -> list[Request]:
    """What to ask the engine, one request for each prompt.

    Raises Problem (400) for values that are out of bounds or not supported.
    """
    if asked.suffix:
        raise Problem(400, "suffix is not supported", "suffix")
    choices = bounded("n", asked.n, 1, MAX_CHOICES) or 1
    if asked.best_of not in (None, choices):
        raise Problem(400, "best_of: every answer is returned, so it must equal n", "best_of")
    logprobs = bounded("logprobs", asked.logprobs, 0, MAX_LOGPROBS)
    if asked.echo and logprobs is not None:
        raise Problem(400, "logprobs of a prompt (echo) are not supported", "echo")
    prompts = prompts_of(asked.prompt)
    grammar = None
    if asked.grammar is not None:
        grammar = await checked_grammar(asked.grammar, "grammar")
    sampling = sampling_of(asked, model.defaults.sampling, model.engine.facts)
    most = limit_or(model.defaults.max_tokens, max_tokens=asked.max_tokens)
    adapters = adapters_of(asked.lora, model)
    return [
        Request(
            text=prompt if isinstance(prompt, str) else None,
            tokens=None if isinstance(prompt, str) else prompt,
            sampling=sampling,
            max_tokens=most,
            stop=stops(asked.stop),
            choices=choices,
            logprobs=logprobs,
            grammar=grammar,
            reasoning=False,
            fresh=asked.cache_prompt is False,
            adapters=adapters,
        )
        for prompt in prompts
    ]


def old_logprobs(tokens: Sequence[TokenLogprob], offset: int) -> OldLogprobs:
    """The probabilities of tokens whose text starts `offset` characters into the answer."""
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.text)
    return OldLogprobs(
        tokens=[token.text for token in tokens],
        token_logprobs=[token.logprob for token in tokens],
        top_logprobs=[{text: logprob for text, _, logprob in token.top} for token in tokens],
        text_offset=offsets,
    )


def completion(answer: Answer, head: Head, echoes: Sequence[str], *, logprobs: bool) -> Completion:
    """The reply to a request that is not streamed. `echoes` come before each choice's text."""
    return Completion(
        id=head.id,
        created=head.created,
        model=head.model,
        choices=[
            CompletionChoice(
                number,
                echoes[number] + choice.text,
                finish_reason(choice.reason),
                old_logprobs(choice.logprobs, 0) if logprobs else None,
            )
            for number, choice in enumerate(answer.choices)
        ],
        usage=usage_of(answer.usage),
    )


class CompletionChunks:
    """Makes the chunks of answers that are streamed, as server-sent events."""

    def __init__(self, head: Head, echoes: Sequence[str], *, usage: bool) -> None:
        """Each of `echoes` comes before its choice's text. With `usage`, the stream ends with a
        chunk of it."""
        self._head = head
        self._usage = usage
        self._echoes = dict(enumerate(echoes))
        """Those that are not sent yet."""
        self._offsets = [0] * len(echoes)
        self._moulds: dict[int, Mould] = {}
        """For the pieces of a choice's text."""
        self._open = dict.fromkeys(range(len(echoes)))
        """The choices that are not complete, in order."""

    def take(self, event: Event | None) -> bytes:
        """The chunks that tell of an event."""
        if type(event) is Text and event.choice in self._moulds and not event.logprobs:
            return self._moulds[event.choice].fill(event.text)  # nearly always
        if event is None:
            return KEEP_ALIVE
        echoes, self._echoes = self._echoes, {}
        begin = [self._piece(CompletionChoice(*echo)) for echo in echoes.items() if echo[1]]
        return b"".join(begin) + self._tell(event)

    def _tell(self, event: Event) -> bytes:
        if isinstance(event, Text):
            return self._text(event)
        if isinstance(event, Failed):
            return sse(error_reply(problem_of(event)))
        if isinstance(event, ChoiceEnd):
            self._open.pop(event.choice, None)
            return self._piece(CompletionChoice(event.choice, "", finish_reason(event.reason)))
        if isinstance(event, Finished):
            reason = finish_reason(event.reason)
            end = [self._piece(CompletionChoice(number, "", reason)) for number in self._open]
            if self._usage:
                end.append(self._piece(counts=usage_of(event.usage)))
            return b"".join(end) + DONE
        return b""

    def _text(self, event: Text) -> bytes:
        number = event.choice
        if not event.logprobs:
            mould = Mould(lambda text: self._piece(CompletionChoice(number, text)))
            self._moulds[number] = mould
            return mould.fill(event.text)
        logprobs = old_logprobs(event.logprobs, self._offsets[number])
        self._offsets[number] += sum(len(token.text) for token in event.logprobs)
        return self._piece(CompletionChoice(number, event.text, None, logprobs))

    def _piece(self, *choices: CompletionChoice, counts: Usage | None = None) -> bytes:
        head = self._head
        return sse(
            Completion(
                id=head.id,
                created=head.created,
                model=head.model,
                choices=list(choices),
                usage=counts if self._usage else UNSET,
            )
        )
