"""OpenAI's /v1/responses, without memory: every request brings its whole conversation."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator

from starlette.requests import Request as HttpRequest
from starlette.responses import Response as HttpResponse

from runtime_stub.engine.messages import LAST_EVENTS, Event, Request
from runtime_stub.server.bridge import KEEP_ALIVE, Events, Stream
from runtime_stub.server.face import Operation
from runtime_stub.server.replies import json, plain, read, sse
from runtime_stub.server.responses_reply import Response
from runtime_stub.server.responses_requests import response_request
from runtime_stub.server.responses_stream import Reply
from runtime_stub.server.responses_types import ResponseRequest, TextFormat
from runtime_stub.server.state import Served, State


def operation(state: State) -> Operation:
    """POST /v1/responses."""

    async def respond(http: HttpRequest) -> HttpResponse:
        asked = await read(http, ResponseRequest)
        model = state.resolve(asked.model)
        request = await response_request(asked, model)
        reply = Reply(_empty(asked, request, model))
        with Events(model.engine, request) as events:
            event = await events.next(http)
            if asked.stream:
                return Stream(events, _pieces(reply, events.stream(event)))
            while True:
                reply.take(event)
                if isinstance(event, LAST_EVENTS):
                    return json(reply.response)
                event = await events.next(http)

    return Operation(
        "POST",
        "/v1/responses",
        respond,
        "Answer, with typed items",
        ResponseRequest,
        Response,
        "text/event-stream",
    )


async def _pieces(reply: Reply, events: AsyncIterator[Event | None]) -> AsyncIterator[bytes]:
    for document in reply.begin():
        yield sse(document, document["type"])
    async for event in events:
        if event is None:
            yield KEEP_ALIVE
            continue
        for document in reply.take(event):
            yield sse(document, document["type"])


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
