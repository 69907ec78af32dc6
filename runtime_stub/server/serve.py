"""Runs the application: the listening socket, start and stop."""

from __future__ import annotations

import errno
import os
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from runtime_stub.errors import AddressError

SHUTDOWN_SECONDS = 30
"""How long running answers may go on after the server was asked to stop."""


def listen(host: str, port: int) -> socket.socket:
    """A bound socket. Raises AddressError that says what is wrong with the address."""
    if not 0 <= port <= 65535:  # the C library takes it modulo 65536
        raise AddressError(f"port {port} is out of range", "Ports go from 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise AddressError(f"{host!r} is not an address to listen on: {error.strerror}") from None
    except ValueError as error:  # not encodable as a name
        raise AddressError(f"{host!r} is not an address to listen on: {error}") from None
    try:
        # On Windows it would let two programs listen on one port.
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise AddressError(
                f"port {port} on {host} is in use",
                "Stop the program that uses it, or choose another with --port (0 takes a free one)",
            ) from None
        if error.errno == errno.EACCES:
            raise AddressError(
                f"port {port} needs administrator rights", "Use a port above 1023"
            ) from None
        raise AddressError(f"can't listen on {host} port {port}: {error.strerror}") from None
    return listener


def address_of(listener: socket.socket) -> str:
    """The address a person would open."""
    host, port = listener.getsockname()[:2]
    if ":" in host:
        host = f"[{host}]"
    return f"http://{host}:{port}"


def run(app: ASGIApp, listener: socket.socket, on_ready: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM; running answers may end. Closes the socket."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        http="h11",
        loop="asyncio",
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    server = _Server(config, on_ready)
    try:
        server.run(sockets=[listener])
    finally:
        listener.close()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop, at once when asked by Ctrl-C again. uvicorn's own would raise the signal
        anew when it has stopped, and what comes after the server would not be reached."""
        del frame
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()
