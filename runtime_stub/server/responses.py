"""OpenAI's /v1/responses, without memory: every request brings its whole conversation."""

from __future__ import annotations

import secrets
import time

from starlette.requests import Request as HttpRequest
from starlette.responses import Response as HttpResponse

from runtime_stub.engine.messages import Event, Request
from runtime_stub.server.bridge import Events
from runtime_stub.server.face import Operation
from runtime_stub.server.replies import json, plain, read, sse
from runtime_stub.server.responses_reply import Response
from runtime_stub.server.responses_requests import response_request
from runtime_stub.server.responses_stream import Reply
from runtime_stub.server.responses_types import ResponseRequest, TextFormat
from runtime_stub.server.state import Served, State
from runtime_stub.server.streaming import KEEP_ALIVE, Stream


def operation(state: State) -> Operation:
    """POST /v1/responses."""

    async def respond(http: HttpRequest) -> HttpResponse:
        asked = await read(http, ResponseRequest)
        model = state.resolve(asked.model)
        request = await response_request(asked, model)
        reply = Reply(_empty(asked, request, model))
        with Events(model.engine, request) as events:
            if asked.stream:
                return Stream(events, await events.first(http), _Pieces(reply))
            await events.rest(http, reply.take)
            return json(reply.response)

    return Operation(
        "POST",
        "/v1/responses",
        respond,
        "Answer, with typed items",
        ResponseRequest,
        Response,
        "text/event-stream",
    )


class _Pieces:
    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._begun = False

    def take(self, event: Event | None) -> bytes:
        documents = [] if self._begun else list(self._reply.begin())
        self._begun = True
        documents += [] if event is None else self._reply.take(event)
        told = [sse(document, document["type"]) for document in documents]
        return b"".join(told) if event is not None else b"".join(told) + KEEP_ALIVE


def _empty(asked: ResponseRequest, request: Request, model: Served) -> Response:
    """The response before there is an answer."""
    wanted = (asked.text.format if asked.text else None) or TextFormat()
    reasoning = asked.reasoning
    return Response(
        id=f"resp_{secrets.token_hex(16)}",
        created_at=int(time.time()),
        model=model.name,
        output=[],
        instructions=asked.instructions,
        max_output_tokens=asked.max_output_tokens,
        metadata=asked.metadata or {},
        parallel_tool_calls=request.parallel_tool_calls,
        reasoning={"effort": reasoning.effort if reasoning else None, "summary": None},
        temperature=request.sampling.temperature,
        text={"format": plain(wanted)},
        tool_choice=plain(asked.tool_choice) or "auto",
        tools=plain(asked.tools or []),
        top_logprobs=request.logprobs or 0,
        top_p=request.sampling.top_p,
    )
