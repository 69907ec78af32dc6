"""The Ollama face: a pack answers programs that expect Ollama.

It can't fetch, make or remove models, and says so (403). HEAD / tells clients that somebody is
there.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import time
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import PlainTextResponse, Response

from runtime_stub.engine.interface import AnyTicket, Sink
from runtime_stub.engine.messages import AnyRequest, Embeddings, EmbedRequest, Failed, Request
from runtime_stub.server.bridge import Events, ask, has_left
from runtime_stub.server.face import Face, Operation
from runtime_stub.server.grammars import json_grammar, schema_grammar
from runtime_stub.server.ollama_models import description, list_entry, running_entry
from runtime_stub.server.ollama_replies import Replies, nanoseconds, unit
from runtime_stub.server.ollama_requests import (
    chat_request,
    embed_request,
    generate_request,
    keep_alive,
)
from runtime_stub.server.ollama_types import (
    ChatReply,
    ChatRequest,
    EmbedBody,
    EmbeddingsBody,
    EmbeddingsReply,
    EmbedReply,
    Error,
    GenerateReply,
    GenerateRequest,
    Processes,
    Show,
    ShowBody,
    Tags,
    Version,
)
from runtime_stub.server.replies import (
    ClientGoneError,
    Handler,
    Problem,
    json,
    problem_of,
    read,
)
from runtime_stub.server.state import Engine, EngineAround, Served, State
from runtime_stub.server.streaming import Stream

API_VERSION = "0.12.11"
"""The version of Ollama whose API this is; clients refuse servers that are too old."""
NDJSON = "application/x-ndjson"


def face(state: State) -> Face:
    """The face, over the models of `state`."""
    handlers = _Handlers(state)
    refused = [
        ("POST", "/api/pull", "fetch"),
        ("POST", "/api/push", "publish"),
        ("POST", "/api/create", "make"),
        ("POST", "/api/copy", "copy"),
        ("DELETE", "/api/delete", "remove"),
        ("HEAD", "/api/blobs/{digest}", "take in"),
        ("POST", "/api/blobs/{digest}", "take in"),
    ]
    return Face(
        name="ollama",
        operations=(
            Operation(
                "POST",
                "/api/chat",
                handlers.chat,
                "Continue a chat",
                ChatRequest,
                ChatReply,
                NDJSON,
            ),
            Operation(
                "POST",
                "/api/generate",
                handlers.generate,
                "Answer a prompt",
                GenerateRequest,
                GenerateReply,
                NDJSON,
            ),
            Operation(
                "POST", "/api/embed", handlers.embed, "Vectors of texts", EmbedBody, EmbedReply
            ),
            Operation(
                "POST",
                "/api/embeddings",
                handlers.embeddings,
                "The vector of a text, as it was asked for before /api/embed",
                EmbeddingsBody,
                EmbeddingsReply,
            ),
            Operation("GET", "/api/tags", handlers.tags, "The models", response=Tags),
            Operation("POST", "/api/show", handlers.show, "About a model", ShowBody, Show),
            Operation("GET", "/api/ps", handlers.processes, "Loaded models", response=Processes),
            Operation("GET", "/api/version", handlers.version, "Version", response=Version),
            Operation("HEAD", "/", handlers.alive, "Whether anybody is there"),
            *(
                Operation(
                    method, path, _refusing(verb), "Refused by a pack", response=Error, status=403
                )
                for method, path, verb in refused
            ),
        ),
        shape=lambda problem: Error(problem.message),
        error=Error,
        prefixes=("/api/",),
    )


LOOK_SECONDS = 0.05
"""Between looks at a model that is loading."""


class _Handlers:
    def __init__(self, state: State) -> None:
        self._state = state

    async def chat(self, http: HttpRequest) -> Response:
        body = await read(http, ChatRequest)
        served = self._kept(body)
        replies = Replies(body.model, chat=True, thinking=body.think is not False)
        if not body.messages:
            return await self._loaded(http, served, body, replies)
        request = chat_request(body, served.defaults, await _grammar(body.format))
        return await _answer(http, served, request, replies, stream=body.stream is not False)

    async def generate(self, http: HttpRequest) -> Response:
        body = await read(http, GenerateRequest)
        served = self._kept(body)
        replies = Replies(body.model, chat=False, thinking=body.think is not False)
        if not body.prompt:
            return await self._loaded(http, served, body, replies)
        request = generate_request(body, served.defaults, await _grammar(body.format))
        return await _answer(http, served, request, replies, stream=body.stream is not False)

    async def embed(self, http: HttpRequest) -> Response:
        began = time.monotonic()
        body = await read(http, EmbedBody)
        served = self._kept(body)
        request = embed_request(body)
        found = Embeddings((), 0)
        if request.texts:
            found = await ask(served.engine, request, Embeddings, http)
        reply = EmbedReply(
            model=body.model,
            embeddings=[unit(vector, body.dimensions) for vector in found.vectors],
            total_duration=nanoseconds(time.monotonic() - began),
            load_duration=0,
            prompt_eval_count=found.tokens,
        )
        return json(reply)

    async def embeddings(self, http: HttpRequest) -> Response:
        body = await read(http, EmbeddingsBody)
        served = self._kept(body)
        if not body.prompt:
            return json(EmbeddingsReply([]))
        request = EmbedRequest((body.prompt,), normalise=False)
        found = await ask(served.engine, request, Embeddings, http)
        return json(EmbeddingsReply(list(found.vectors[0])))

    async def tags(self, _http: HttpRequest) -> Response:
        return json(Tags([list_entry(served) for served in self._state.models]))

    async def show(self, http: HttpRequest) -> Response:
        body = await read(http, ShowBody)
        name = body.model or body.name
        if not name:
            raise Problem(400, "model: is missing; name the model to tell of", "model")
        return json(description(self._model(name)))

    async def processes(self, _http: HttpRequest) -> Response:
        entries = (running_entry(served) for served in self._state.models)
        return json(Processes([entry for entry in entries if entry is not None]))

    async def version(self, _http: HttpRequest) -> Response:
        return json(Version(API_VERSION))

    async def alive(self, _http: HttpRequest) -> Response:
        return PlainTextResponse("Ollama is running")

    def _kept(self, body: ChatRequest | GenerateRequest | EmbedBody | EmbeddingsBody) -> Served:
        """The model that is asked; with what is asked of it, it is told how long to stay."""
        served = self._model(body.model)
        if body.keep_alive is None:
            return served
        return dataclasses.replace(served, engine=_Kept(served.engine, keep_alive(body.keep_alive)))

    async def _loaded(
        self,
        http: HttpRequest,
        served: Served,
        body: ChatRequest | GenerateRequest,
        replies: Replies,
    ) -> Response:
        """For a request without a prompt: the model is loaded, or unloaded when it shall not be
        kept."""
        engine = served.engine
        if body.keep_alive is not None and keep_alive(body.keep_alive) == 0:
            engine.unload()
            return json(replies.loaded("unload"))
        engine.load()
        until = time.monotonic() + (self._state.timeout or math.inf)
        while engine.status.state == "loading":
            if time.monotonic() > until:
                raise problem_of(Failed("timeout", "the model was not loaded in time", "Ask later"))
            if await has_left(http):
                raise ClientGoneError
            await asyncio.sleep(LOOK_SECONDS)
        if engine.status.state != "ready":
            raise Problem(503, engine.status.message or "the model is not loaded")
        return json(replies.loaded("load"))

    def _model(self, name: str) -> Served:
        try:
            return self._state.resolve(name)
        except Problem as problem:
            # In Ollama's words, which some clients look for.
            known = ", ".join(served.name for served in self._state.models)
            message = f"model '{name}' not found; this pack has: {known}"
            raise Problem(problem.status, message, problem.param, problem.code) from None


class _Kept(EngineAround):
    """An engine whose model stays in memory for as long as a request says."""

    def __init__(self, engine: Engine, seconds: float | None) -> None:
        super().__init__(engine)
        self._seconds = seconds

    def submit(self, request: AnyRequest, sink: Sink) -> AnyTicket:
        """Queue a request."""
        ticket = super().submit(request, sink)
        self.unload_after(self._seconds)  # told before, it might leave before the request comes
        return ticket

    def load(self) -> None:
        """Bring the model into memory."""
        self.unload_after(self._seconds)
        super().load()


async def _answer(
    http: HttpRequest, served: Served, request: Request, replies: Replies, *, stream: bool
) -> Response:
    with Events(served.engine, request) as events:
        if stream:
            first = await events.first(http)
            return Stream(events, first, replies, NDJSON)
        return json(replies.whole(await events.answer(http)))


async def _grammar(wanted: str | dict[str, Any] | None) -> str | None:
    if wanted is None or wanted == "":
        return None
    if wanted == "json":
        return await json_grammar()
    if isinstance(wanted, str):
        raise Problem(400, 'format: must be "json" or a JSON schema', "format")
    return await schema_grammar(wanted, "format")


def _refusing(verb: str) -> Handler:
    async def refuse(_http: HttpRequest) -> Response:
        raise Problem(403, f"a pack can't {verb} models: it serves those it was made with")

    return refuse
