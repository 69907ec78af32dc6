"""Runs the application: start and stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

SHUTDOWN_SECONDS = 30
"""How long running answers may go on after the server was asked to stop."""


HEADER_SECONDS = 30
"""How long a new connection may take to send its first request's head."""


def run(
    app: ASGIApp,
    listener: socket.socket,
    on_ready: Callable[[], None],
    *,
    on_stopping: Callable[[], None] = lambda: None,
    is_over: Callable[[], bool] = lambda: False,
) -> None:
    """Serve until SIGINT or SIGTERM, or until `is_over`; running answers may end.

    `on_stopping` is called at the first signal. Closes the socket.
    """
    allow_many_connections()
    config = uvicorn.Config(
        app,
        # Anybody can make uvicorn log, as often as they like: only what the program says counts.
        log_config=None,
        log_level="critical",
        access_log=False,
        lifespan="off",
        ws="none",
        http=_Protocol,
        loop="asyncio",
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    server = _Server(config, on_ready, on_stopping, is_over)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    try:
        server.run(sockets=[listener])
    finally:
        listener.close()


class _Server(uvicorn.Server):
    def __init__(
        self,
        config: uvicorn.Config,
        on_ready: Callable[[], None],
        on_stopping: Callable[[], None],
        is_over: Callable[[], bool],
    ) -> None:
        super().__init__(config)
        self._on_ready = on_ready
        self._on_stopping = on_stopping
        self._is_over = is_over

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop, at once when asked by Ctrl-C again. uvicorn's own would raise the signal
        anew when it has stopped, and what comes after the server would not be reached."""
        del frame
        if not self.should_exit:
            self._on_stopping()
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._is_over()


class _Protocol(H11Protocol):
    """Connections that send nothing whole do not stay for ever."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(HEADER_SECONDS, self._drop_silent)

    def _drop_silent(self) -> None:
        if getattr(self, "cycle", None) is None and not self.transport.is_closing():
            self.transport.close()


def allow_many_connections() -> None:
    """Raise the limit of open files to what the system allows us, where there is one."""
    try:
        import resource
    except ImportError:
        return
    with contextlib.suppress(OSError, ValueError):
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
