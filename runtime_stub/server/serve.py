"""Runs the application: start and stop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import signal
import socket
from collections.abc import Callable
from types import FrameType

from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.server import Server

from runtime_stub.server import connection
from runtime_stub.server.connection import MAX_HEAD, MOST, Connection, Room
from runtime_stub.server.threads import take_short_turns

SHUTDOWN_SECONDS = 30
"""How long running answers may go on after the server was asked to stop."""
_SPARE_FILES = 64
"""Open files for everything but connections."""


def run(
    app: ASGIApp,
    listener: socket.socket,
    on_ready: Callable[[], None],
    *,
    on_stopping: Callable[[], None] = lambda: None,
    is_over: Callable[[], bool] = lambda: False,
) -> None:
    """Serve until SIGINT or SIGTERM, or until `is_over`; running answers may end.

    `on_stopping` is called soon after the first signal. Closes the socket.
    """
    room = Room(max(_SPARE_FILES // 2, min(MOST, allow_many_files() - _SPARE_FILES)))
    config = Config(
        app,
        # Anybody can make uvicorn log, as often as they like: only what the program says counts.
        log_config=None,
        log_level="critical",
        access_log=False,
        lifespan="off",
        ws="none",
        http=functools.partial(Connection, room),  # type: ignore[arg-type]
        h11_max_incomplete_event_size=MAX_HEAD,
        loop="asyncio",
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    take_short_turns()
    server = _Server(config, room, on_ready, on_stopping, is_over)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    try:
        server.run(sockets=[listener])
    finally:
        listener.close()


class _Server(Server):
    def __init__(
        self,
        config: Config,
        room: Room,
        on_ready: Callable[[], None],
        on_stopping: Callable[[], None],
        is_over: Callable[[], bool],
    ) -> None:
        self._asked = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken = asyncio.Event()
        super().__init__(config)
        self._room = room
        self._on_ready = on_ready
        self._on_stopping = on_stopping
        self._is_over = is_over
        self._told = False

    @property
    def should_exit(self) -> bool:
        """Whether it was asked to stop: by a signal, or from any thread."""
        return self._asked

    @should_exit.setter
    def should_exit(self, asked: bool) -> None:
        self._asked = asked
        # Its own loop may have ended.
        with contextlib.suppress(RuntimeError):
            if asked and self._loop is not None:
                self._loop.call_soon_threadsafe(self._woken.set)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop, at once when asked by Ctrl-C again. uvicorn's own would raise the signal
        anew when it has stopped, and what comes after the server would not be reached.

        This runs between any two instructions: nothing in here may raise, for whatever was
        interrupted would end instead of the server.
        """
        del frame
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    async def main_loop(self) -> None:
        """Look around until it is time to stop. uvicorn's own looks ten times a second, which
        takes as long as sending on a token each time, from an engine that wants the processor."""
        self._loop = asyncio.get_running_loop()
        tenths = 0
        while not await self.on_tick(tenths):
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._woken.wait(), connection.LOOK_SECONDS)
            tenths += 10

    async def on_tick(self, counter: int) -> bool:
        self._room.look(asyncio.get_running_loop().time())
        if self.should_exit and not self._told:
            self._told = True
            # Nobody may be left to be told: where standard error is a pipe that was closed, say.
            with contextlib.suppress(OSError):
                self._on_stopping()
        return await super().on_tick(counter) or self._is_over()


def allow_many_files() -> int:
    """Raise the limit of open files to what the system allows us; how many that is."""
    try:
        import resource
    except ImportError:
        return MOST + _SPARE_FILES
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        soft = most
    return MOST + _SPARE_FILES if soft == resource.RLIM_INFINITY else soft
