"""The OpenAI face: its operations, and the way each takes to the engine and back."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from runtime_stub.engine.messages import (
    Detokenized,
    DetokenizeRequest,
    Embeddings,
    Request,
    Scores,
    TokenizeRequest,
    Tokens,
)
from runtime_stub.server.bridge import Events, ask
from runtime_stub.server.face import Face, Operation
from runtime_stub.server.openai_chat import Chunks, Head, completion
from runtime_stub.server.openai_completions import (
    Completion,
    CompletionChunks,
    CompletionRequest,
    completion_requests,
)
from runtime_stub.server.openai_completions import completion as text_completion
from runtime_stub.server.openai_errors import ErrorReply, error_reply
from runtime_stub.server.openai_requests import (
    chat_request,
    message_of,
    template_arguments,
    tools_of,
    with_system,
)
from runtime_stub.server.openai_types import (
    ChatCompletion,
    ChatRequest,
    Message,
    StreamOptions,
    Tool,
)
from runtime_stub.server.openai_vectors import (
    EmbeddingsReply,
    EmbeddingsRequest,
    RerankBody,
    RerankReply,
    embed_request,
    embeddings_reply,
    rerank_reply,
    rerank_request,
)
from runtime_stub.server.replies import Problem, json, read
from runtime_stub.server.responses import operation as responses_operation
from runtime_stub.server.state import Engine, Served, State
from runtime_stub.server.streaming import Stream

SSE = "text/event-stream"


class Model(msgspec.Struct):
    """A model that is served."""

    id: str
    created: int
    object: Literal["model"] = "model"
    owned_by: str = "satchel"


class ModelList(msgspec.Struct):
    """All models."""

    data: list[Model]
    object: Literal["list"] = "list"


class TokenizeBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /tokenize: a text, or a chat."""

    content: str | None = None
    add_special: bool = False
    """Add the tokens that start a prompt."""
    messages: list[Message] | None = None
    """A chat, as it would be answered: behind the pack's system prompt, unless it brings one, and
    in the chat template (not in llama-server)."""
    tools: list[Tool] | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    """Told to the chat template, as for a chat completion."""
    model: str = "default"


class TokenList(msgspec.Struct):
    """Tokens of the model."""

    tokens: list[int]


class DetokenizeBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /detokenize."""

    tokens: list[int]
    model: str = "default"


class Content(msgspec.Struct):
    """A text."""

    content: str


def face(state: State) -> Face:
    """OpenAI's interface to the models of `state`, with llama-server's for tokens."""
    on = _Handlers(state)
    rerank = (
        Operation("POST", path, on.rerank, "Score documents", RerankBody, RerankReply)
        for path in ("/v1/rerank", "/rerank")
    )
    return Face(
        name="OpenAI",
        operations=(
            Operation(
                "POST",
                "/v1/chat/completions",
                on.chat,
                "Continue a chat",
                ChatRequest,
                ChatCompletion,
                SSE,
            ),
            Operation(
                "POST",
                "/v1/completions",
                on.completions,
                "Complete a text",
                CompletionRequest,
                Completion,
                SSE,
            ),
            responses_operation(state),
            Operation(
                "POST",
                "/v1/embeddings",
                on.embeddings,
                "Turn texts into vectors",
                EmbeddingsRequest,
                EmbeddingsReply,
            ),
            *rerank,
            Operation("GET", "/v1/models", on.models, "List the models", None, ModelList),
            Operation("GET", "/v1/models/{id:path}", on.model, "Describe a model", None, Model),
            Operation(
                "POST", "/tokenize", on.tokenize, "Turn a text into tokens", TokenizeBody, TokenList
            ),
            Operation(
                "POST",
                "/detokenize",
                on.detokenize,
                "Turn tokens into a text",
                DetokenizeBody,
                Content,
            ),
        ),
        shape=error_reply,
        error=ErrorReply,
    )


class _Handlers:
    def __init__(self, state: State) -> None:
        self._state = state

    async def chat(self, http: HttpRequest) -> Response:
        asked = await read(http, ChatRequest)
        model = self._state.resolve(asked.model)
        request = await chat_request(asked, model)
        head = _head("chatcmpl-", model)
        with self._events(model, request) as events:
            if asked.stream:
                first = await events.first(http)
                usage = _wants_usage(asked.stream_options)
                return Stream(events, first, Chunks(head, request.choices, usage=usage))
            answer = await events.answer(http)
        return json(completion(answer, head, logprobs=bool(asked.logprobs)))

    async def completions(self, http: HttpRequest) -> Response:
        asked = await read(http, CompletionRequest)
        model = self._state.resolve(asked.model)
        requests = await completion_requests(asked, model)
        if asked.echo:
            echoes = await _echoes(model.engine, requests, http)
        else:
            echoes = [""] * sum(request.choices for request in requests)
        head = _head("cmpl-", model)
        with self._events(model, *requests) as events:
            if asked.stream:
                first = await events.first(http)
                usage = _wants_usage(asked.stream_options)
                return Stream(events, first, CompletionChunks(head, echoes, usage=usage))
            answer = await events.answer(http)
        return json(text_completion(answer, head, echoes, logprobs=asked.logprobs is not None))

    async def embeddings(self, http: HttpRequest) -> Response:
        asked = await read(http, EmbeddingsRequest)
        model = self._state.resolve(asked.model)
        found = await ask(model.engine, embed_request(asked), Embeddings, http)
        return json(embeddings_reply(asked, found, model.name))

    async def rerank(self, http: HttpRequest) -> Response:
        asked = await read(http, RerankBody)
        model = self._state.resolve(asked.model)
        found = await ask(model.engine, rerank_request(asked), Scores, http)
        return json(rerank_reply(asked, found, model.name))

    async def models(self, _http: HttpRequest) -> Response:
        return json(ModelList([Model(model.name, model.created) for model in self._state.models]))

    async def model(self, http: HttpRequest) -> Response:
        model = self._state.resolve(http.path_params["id"])
        return json(Model(model.name, model.created))

    async def tokenize(self, http: HttpRequest) -> Response:
        asked = await read(http, TokenizeBody)
        if (asked.content is None) == (asked.messages is None):
            raise Problem(400, "content or messages must be given, not both", "content")
        model = self._state.resolve(asked.model)
        messages: tuple[dict[str, Any], ...] = ()
        if asked.messages is not None:
            plain = [message_of(message) for message in asked.messages]
            messages = with_system(plain, model.defaults.system)
        request = TokenizeRequest(
            text=asked.content,
            messages=messages,
            tools=tools_of([tool.function for tool in asked.tools or ()]),
            add_special=asked.add_special,
            template_arguments=template_arguments(
                asked.reasoning_effort, asked.chat_template_kwargs
            ),
        )
        found = await ask(model.engine, request, Tokens, http)
        return json(TokenList(list(found.tokens)))

    async def detokenize(self, http: HttpRequest) -> Response:
        asked = await read(http, DetokenizeBody)
        if any(not 0 <= token < 2**31 for token in asked.tokens):
            raise Problem(400, "tokens: whole numbers from 0", "tokens")
        engine = self._state.resolve(asked.model).engine
        request = DetokenizeRequest(tuple(asked.tokens))
        return json(Content((await ask(engine, request, Detokenized, http)).text))

    def _events(self, model: Served, *requests: Request) -> Events:
        """Those of one answer: there may be more choices than are worked on at once."""
        parallel, timeout = self._state.parallel, self._state.timeout
        return Events(model.engine, *requests, at_once=parallel, seconds=timeout)


def _head(prefix: str, model: Served) -> Head:
    return Head(prefix + secrets.token_hex(12), int(time.time()), model.name)


def _wants_usage(options: StreamOptions | None) -> bool:
    return options is not None and options.include_usage


async def _echoes(engine: Engine, requests: Sequence[Request], http: HttpRequest) -> list[str]:
    """The text of the prompt for each choice of each request."""
    echoes: list[str] = []
    for request in requests:
        text = request.text
        if text is None:
            text = (
                await ask(engine, DetokenizeRequest(request.tokens or ()), Detokenized, http)
            ).text
        echoes += [text] * request.choices
    return echoes
