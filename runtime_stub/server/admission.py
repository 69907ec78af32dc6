"""Memory for requests: who comes when too much of it is in use is told to come back.

A request counts with its body's bytes, from its head until its answer has ended: while it waits
and is worked on, it is held in several forms, each about as long.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime_stub.server.replies import BUSY_SECONDS, MAX_BODY, Problem, Shape, problem_reply

MOST = 4 * MAX_BODY
"""Bytes of all bodies at once, where there is memory in plenty."""
_SHARE = 16
"""Part of the free memory that bodies may take; in several forms, they need four times that."""


def room_for_bodies(free_memory: int) -> int:
    """Bytes of all bodies at once: one of the largest fits in any case."""
    return max(MAX_BODY, min(MOST, free_memory // _SHARE))


class Admission:
    """Lets only as many requests through to `app` as there is memory for."""

    def __init__(self, app: ASGIApp, most: int, shape_for: Callable[[str], Shape]) -> None:
        """`most` is in bytes; `shape_for` tells from a path in which shape to refuse."""
        self._app = app
        self._most = most
        self._shape_for = shape_for
        self._taken = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        taken = received = 0

        def take(count: int) -> None:
            nonlocal taken
            if self._taken + count > self._most:
                raise Problem(
                    503,
                    "too much is waiting already; try again later",
                    code="busy",
                    headers={"Retry-After": str(BUSY_SECONDS), "Connection": "close"},
                )
            self._taken += count
            taken += count

        async def count() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > taken:  # it came in chunks, without a length
                take(received - taken)
            return message

        length = Headers(scope=scope).get("content-length", "")
        app: ASGIApp = self._app
        try:
            take(int(length) if length.isdigit() else 0)
        except Problem as problem:
            app = problem_reply(problem, self._shape_for(scope["path"]))
        try:
            await app(scope, count, send)
        finally:
            self._taken -= taken
