"""The Anthropic face: the Messages API, over the models of a pack.

Header "anthropic-version" is accepted whatever it says: there is one version here.
"""

from __future__ import annotations

import secrets

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from runtime_stub.engine.messages import Tokens
from runtime_stub.server.anthropic_replies import Replies, error_reply
from runtime_stub.server.anthropic_requests import count_request, messages_request, shows_thinking
from runtime_stub.server.anthropic_types import (
    CountRequest,
    ErrorReply,
    MessageReply,
    MessagesRequest,
    OutputConfig,
    TokenCount,
)
from runtime_stub.server.bridge import Events, ask
from runtime_stub.server.face import Face, Operation
from runtime_stub.server.grammars import schema_grammar
from runtime_stub.server.replies import json, read
from runtime_stub.server.state import State
from runtime_stub.server.streaming import Stream

SSE = "text/event-stream"


def face(state: State) -> Face:
    """The face, over the models of `state`."""
    handlers = _Handlers(state)
    return Face(
        name="anthropic",
        operations=(
            Operation(
                "POST",
                "/v1/messages",
                handlers.messages,
                "Continue a conversation",
                MessagesRequest,
                MessageReply,
                SSE,
            ),
            Operation(
                "POST",
                "/v1/messages/count_tokens",
                handlers.count_tokens,
                "Count the tokens of a conversation",
                CountRequest,
                TokenCount,
            ),
        ),
        shape=error_reply,
        error=ErrorReply,
        prefixes=("/v1/messages",),
    )


class _Handlers:
    def __init__(self, state: State) -> None:
        self._state = state

    async def messages(self, http: HttpRequest) -> Response:
        body = await read(http, MessagesRequest)
        served = self._state.resolve(body.model)
        grammar = await _grammar(body.output_config)
        request = messages_request(body, served.defaults, grammar)
        replies = Replies(secrets.token_hex(12), served.name, thinking=shows_thinking(body))
        with Events(served.engine, request) as events:
            if body.stream:
                first = await events.first(http)
                return Stream(events, first, replies)
            return json(replies.whole(await events.answer(http)))

    async def count_tokens(self, http: HttpRequest) -> Response:
        body = await read(http, CountRequest)
        served = self._state.resolve(body.model)
        found = await ask(served.engine, count_request(body, served.defaults), Tokens, http)
        return json(TokenCount(len(found.tokens)))


async def _grammar(config: OutputConfig | None) -> str | None:
    if config is None or config.format is None:
        return None
    return await schema_grammar(config.format.schema, "output_config.format.schema")
