"""An answer on its way to a client, piece by piece as the engine's events come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from runtime_stub.engine.messages import LAST_EVENTS, Event
from runtime_stub.server.bridge import Events

KEEP_ALIVE_SECONDS = 15.0
"""Something goes down an idle stream this often, so that proxies keep it open."""
KEEP_ALIVE = b": waiting\n\n"
"""A comment in a stream of server-sent events."""
WRITE = "satchel.write"
"""Key of an ASGI scope: a WritePiece, where there is one."""
WritePiece = Callable[[bytes], bool]
"""Sends a piece of a reply whose head was sent, at once; False when that must be left to the usual
way. Each layer on that way costs time for every token."""
_LAST = frozenset(LAST_EVENTS)


class Pieces(Protocol):
    """Makes what is sent of an answer that is streamed."""

    def take(self, event: Event | None) -> bytes:
        """What tells of an event, empty if nothing does; for None, at any time, a sign of life."""


class Stream(StreamingResponse):
    """A streamed answer. However sending ends, the request is cancelled.

    Pieces are sent as the events come, without waking the response's task, for as long as the
    client takes them. What it does not take waits here for that task.
    """

    def __init__(
        self,
        events: Events,
        first: Event | None,
        pieces: Pieces,
        media_type: str = "text/event-stream",
    ) -> None:
        """`first` has come already, or there is only a sign of life yet; those that follow are
        awaited."""
        super().__init__(
            (),
            media_type=media_type,
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )
        self._events = events
        self._bell = events.bell
        self._first = first
        self._pieces = pieces
        self._write: WritePiece | None = None
        self._unsent = bytearray()
        self._sending = False
        """Whether the task sends: nothing may overtake that."""
        self._over = False

    async def stream_response(self, send: Send) -> None:
        """Send it all: its pieces, where possible, past what is around the application."""
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        self._bell.be_patient(KEEP_ALIVE_SECONDS)
        self._take(self._first)
        self._events.divert(self._take)
        while self._unsent or not self._over:
            if self._unsent:
                body, self._unsent = bytes(self._unsent), bytearray()
                self._sending = True
                await send({"type": "http.response.body", "body": body, "more_body": True})
                self._sending = False
            elif not await self._bell.wait():
                self._bell.be_patient(KEEP_ALIVE_SECONDS)
                self._say(self._pieces.take(None))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _take(self, event: Event | None) -> None:
        if type(event) in _LAST:  # which is quicker than `isinstance`
            self._over = True
            self._bell.ring()
        self._say(self._pieces.take(event))

    def _say(self, piece: bytes) -> None:
        if not piece:
            return
        self._bell.be_patient(KEEP_ALIVE_SECONDS)
        if self._sending or self._unsent or self._write is None or not self._write(piece):
            self._unsent += piece
            self._bell.ring()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._write = scope.get(WRITE)
        # A client that has gone already keeps `stream_response` from starting.
        try:
            await self._send_until_gone(receive, send)
        finally:
            self._events.cancel()

    async def _send_until_gone(self, receive: Receive, send: Send) -> None:
        """Send it all, or as much as the client waits for. As in the base class, without the
        library that this loads for it."""
        sending = asyncio.ensure_future(self.stream_response(send))
        leaving = asyncio.ensure_future(self.listen_for_disconnect(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)
