"""Memory for requests: who comes when too much of it is in use is told to come back.

A request counts from its head until its answer has ended: with its body's bytes, and with the
values in it, each of which becomes an object, however short it is written.

    head         Content-Length                     refused before anything is read
    each piece   quotes, brackets and commas in it  refused before anything is made of it
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime_stub.engine.heap import give_back_freed
from runtime_stub.server.replies import BUSY_SECONDS, MAX_BODY, Problem, Shape, problem_reply

PER_BYTE = 8
"""Bytes of memory for each of a body: it is held in several forms, in two processes."""
PER_VALUE, PER_COMMA = 160, 32
"""What comes on top for a string, list or object, and for each further thing in one."""
MOST = 4 * MAX_BODY * PER_BYTE
"""Memory for all requests at once, where there is plenty."""
_SHARE = 8
"""Part of the free memory that they may take: the model's own needs come out of it, too."""
_LEAST = 16 << 20
_LARGE = 16 << 20
"""Bytes of memory after whose use some is given back."""


def room_for_bodies(free_memory: int) -> int:
    """Bytes of memory for all requests at once."""
    return max(_LEAST, min(MOST, free_memory // _SHARE))


def weight(piece: bytes) -> int:
    """Bytes of memory that what is written in a piece of JSON takes, about, beside its own."""
    halves = piece.count(b'"') + 2 * (piece.count(b"[") + piece.count(b"{"))
    return PER_VALUE // 2 * halves + PER_COMMA * piece.count(b",")


class Admission:
    """Lets only as many requests through to `app` as there is memory for."""

    def __init__(self, app: ASGIApp, most: int, shape_for: Callable[[str], Shape]) -> None:
        """`most` is in bytes of memory; `shape_for` tells from a path in which shape to refuse."""
        self._app = app
        self._most = most
        self._shape_for = shape_for
        self._taken = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        taken = received = values = 0

        def take(needed: int) -> None:
            nonlocal taken
            more = needed - taken
            if more <= 0:
                return
            if needed > self._most:
                raise Problem(
                    413,
                    "the request has more in it than there is memory for; send less at once",
                    headers={"Connection": "close"},
                )
            if self._taken + more > self._most:
                raise Problem(
                    503,
                    "too much is waiting already; try again later",
                    code="busy",
                    headers={"Retry-After": str(BUSY_SECONDS), "Connection": "close"},
                )
            self._taken += more
            taken += more

        async def count() -> Message:
            nonlocal received, values
            message = await receive()
            piece = message.get("body", b"")
            received += len(piece)
            values += weight(piece)
            take(max(announced, received) * PER_BYTE + values)
            return message

        length = Headers(scope=scope).get("content-length", "")
        announced = int(length) if length.isdigit() else 0
        app: ASGIApp = self._app
        try:
            # A longer one than any that is read is told so behind us.
            take(min(announced, MAX_BODY) * PER_BYTE)
        except Problem as problem:
            app = problem_reply(problem, self._shape_for(scope["path"]))
        try:
            await app(scope, count, send)
        finally:
            self._taken -= taken
            if taken > _LARGE:
                give_back_freed()
