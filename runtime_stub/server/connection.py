"""Connections: how many there may be at once, and how long each may keep the server waiting.

    head    nothing, or part of a request's head    may give way to a newcomer
    body    a head, and not all of its body yet
    answer  a whole request

A client that sends or takes nothing costs a place, which others need: it gets a while for each
step, then its connection is closed.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from runtime_stub.server.bridge import WATCH
from runtime_stub.server.streaming import WRITE

MOST = 512
"""Connections at once."""
HEAD_SECONDS = 30.0
"""How long a request's head may take, or a new connection to send one."""
SILENCE_SECONDS = 30.0
"""How long nothing of a body may come."""
SLOWEST_BODY = 1024
"""Bytes a second that a body must come with, on average, once it has taken SILENCE_SECONDS."""
STUCK_SECONDS = 120.0
"""How long a client may take nothing of its answer."""
MAX_HEAD = 32 << 10
"""Largest request head, in bytes."""
LOOK_SECONDS = 1.0
"""How often to look at all connections."""


class Phase(enum.Enum):
    """What a connection is doing."""

    HEAD = enum.auto()
    BODY = enum.auto()
    ANSWER = enum.auto()


class Room:
    """The connections of one server. Belongs to its event loop."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._present: set[Connection] = set()
        self._waiting: dict[Connection, None] = {}
        """Those in the phase HEAD, the longest there first."""
        self._next_look = 0.0

    def __len__(self) -> int:
        return len(self._present)

    def enter(self, newcomer: Connection) -> bool:
        """Take in a connection; False when there is no room. When it is full, one that has
        been waiting for a request for longest makes way."""
        if len(self._present) >= self._most:
            oldest = next(iter(self._waiting), None)
            if oldest is None:
                return False
            self.leave(oldest)
            oldest.dismiss()
        self._present.add(newcomer)
        self._waiting[newcomer] = None
        return True

    def leave(self, connection: Connection) -> None:
        """It is gone; harmless if it was never there."""
        self._present.discard(connection)
        self._waiting.pop(connection, None)

    def move(self, connection: Connection, phase: Phase) -> None:
        """Note what a connection does now."""
        self._waiting.pop(connection, None)
        if phase is Phase.HEAD and connection in self._present:
            self._waiting[connection] = None

    def look(self, now: float) -> None:
        """Close what has kept us waiting for too long; looks no oftener than LOOK_SECONDS."""
        if now < self._next_look:
            return
        self._next_look = now + LOOK_SECONDS
        for connection in list(self._present):
            connection.look(now)


class Connection(H11Protocol):
    """One client's."""

    def __init__(self, room: Room, **rest: Any) -> None:
        """`rest` is uvicorn's."""
        super().__init__(**rest)
        self._room = room
        self._phase = Phase.HEAD
        self._since = self._last = self.loop.time()
        """When the phase began, and when something was received or taken last."""
        self._received = 0
        self._unsent = 0
        self._over = False
        self._on_loss: Callable[[], None] | None = None
        self.app = self._with_shortcuts(self.app)

    def _with_shortcuts(self, app: ASGIApp) -> ASGIApp:
        async def with_shortcuts(scope: Scope, receive: Receive, send: Send) -> None:
            scope[WRITE] = self.write
            scope[WATCH] = self.watch
            await app(scope, receive, send)

        return with_shortcuts

    def write(self, piece: bytes) -> bool:
        """Send a piece of a reply's body, whose length its head does not say. False where that is
        left to uvicorn: before the head, after the end, while the client takes nothing, and where
        pieces are not sent as chunks."""
        cycle = self.cycle
        if (
            self._over
            or not piece
            or not cycle.response_started
            or cycle.response_complete
            or cycle.disconnected
            or self.flow.write_paused
            or self.conn.their_http_version != b"1.1"
        ):
            return False
        self.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        return True

    def watch(self, call: Callable[[], None] | None) -> None:
        """Have it called as soon as the connection is lost, at once if it is; None for nothing.
        There is one request at a time, so there is one who waits."""
        if call is not None and self._over:
            call()
        else:
            self._on_loss = call

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if not self._room.enter(self):
            self._end(503, "too many connections; try again later", at_once=True)

    def connection_lost(self, exc: Exception | None) -> None:
        self._over = True
        self._room.leave(self)
        super().connection_lost(exc)
        call, self._on_loss = self._on_loss, None
        if call is not None:
            call()

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        self._received += len(data)
        self._last = self.loop.time()
        super().data_received(data)
        self._note()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._note()

    def dismiss(self) -> None:
        """Make way for others."""
        self._end(503, "the server is crowded; try again later")

    def look(self, now: float) -> None:
        """End it if it has kept us waiting for too long."""
        spent = now - self._since
        if self._phase is Phase.HEAD and spent > HEAD_SECONDS:
            self._end(408, "the request did not come in time")
        elif self._phase is Phase.BODY:
            slow = spent > SILENCE_SECONDS and self._received < spent * SLOWEST_BODY
            if slow or now - self._last > SILENCE_SECONDS:
                self._end(408, "the request's body did not come in time")
        elif self._phase is Phase.ANSWER:
            unsent = self.transport.get_write_buffer_size()
            if not unsent or unsent != self._unsent:
                self._unsent, self._last = unsent, now
            elif now - self._last > STUCK_SECONDS:
                self._over = True
                self.transport.abort()

    def _note(self) -> None:
        phase = self._now()
        if phase is not self._phase:
            self._phase = phase
            self._since = self._last = self.loop.time()
            self._received = self._unsent = 0
            self._room.move(self, phase)

    def _now(self) -> Phase:
        if self.cycle is None or self.cycle.response_complete:
            return Phase.HEAD
        return Phase.BODY if self.cycle.more_body else Phase.ANSWER

    def _end(self, status: int, message: str, *, at_once: bool = False) -> None:
        """Close, and say why to who has begun to ask, or is about to (`at_once`)."""
        if self._over or self.transport.is_closing():
            return
        self._over = True
        answered = self.cycle is not None and self.cycle.response_started
        begun = bool(self.conn.trailing_data[0]) or self._phase is Phase.BODY
        if at_once or (begun and not answered):
            reason = {408: "Request Timeout", 503: "Service Unavailable"}[status]
            body = f'{{"error":{{"message":"{message}","type":"server_error"}}}}'.encode()
            head = (
                f"HTTP/1.1 {status} {reason}",
                "Content-Type: application/json",
                f"Content-Length: {len(body)}",
                "Retry-After: 2",
                "Connection: close",
            )
            self.transport.write("\r\n".join((*head, "", "")).encode() + body)
        self.transport.close()
