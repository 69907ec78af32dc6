"""The socket a server listens on: an address and port, or a Unix socket."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

from runtime_stub.confinement.files import remove_socket
from runtime_stub.errors import AddressError

BACKLOG = 1024
_KNOCK_SECONDS = 1.0


def listen(host: str, port: int) -> socket.socket:
    """A bound socket. Raises AddressError that says what is wrong with the address."""
    if not 0 <= port <= 65535:  # the C library takes it modulo 65536
        raise AddressError(f"port {port} is out of range", "Ports go from 0 to 65535")
    try:
        # Text would have tables of all the world's scripts loaded, at every start.
        name = host.encode() if host.isascii() else host
        family, kind, protocol, _, address = socket.getaddrinfo(
            name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
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
        listener.listen(BACKLOG)
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


def listen_unix(path: Path) -> UnixListener:
    """A bound Unix socket that only this user can connect to.

    A socket left behind by a program that is gone is replaced. Raises AddressError.
    """
    if not hasattr(socket, "AF_UNIX"):
        raise AddressError("there are no Unix sockets here", "Use --host and --port")
    _make_way(path)
    listener = UnixListener(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.remove = remove_socket
    try:
        listener.bind(str(path))
        facts = path.lstat()
        listener.file = path, (facts.st_dev, facts.st_ino)
        # Nobody can connect before it listens.
        path.chmod(0o600)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)  # a path that is too long has no number
        raise AddressError(f"can't listen on {path}: {reason}") from None
    return listener


class UnixListener(socket.socket):
    """Takes its file along when it closes, unless another has come in its place."""

    file: tuple[Path, tuple[int, int]] | None = None
    """Where it is, and which file that was."""
    remove: Callable[[Path, tuple[int, int]], None]
    """How to remove it. Set by who listens: that may not be this process's to do later."""

    def close(self) -> None:
        super().close()
        if self.file is not None:
            path, identity = self.file
            self.file = None
            self.remove(path, identity)


def _make_way(path: Path) -> None:
    """Remove a socket on which nobody listens; anything else at `path` is an error."""
    try:
        is_socket = stat.S_ISSOCK(path.lstat().st_mode)
    except OSError:
        return  # there is nothing, or binding tells what is wrong
    if not is_socket:
        raise AddressError(f"{path} is there already, and no socket", "Choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knock:
        knock.settimeout(_KNOCK_SECONDS)
        try:
            knock.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise AddressError(f"can't listen on {path}: {error.strerror or error}") from None
    raise AddressError(f"another program listens on {path}", "Stop it, or choose another path")


def is_exposed(listener: socket.socket) -> bool:
    """Whether other machines can connect."""
    if isinstance(listener, UnixListener):
        return False
    host = listener.getsockname()[0]
    return not ipaddress.ip_address(host.partition("%")[0]).is_loopback


def address_of(listener: socket.socket) -> str:
    """The address a person on this machine would open."""
    if isinstance(listener, UnixListener):
        return f"unix:{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    # A socket on all addresses has none that could be opened.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    if ":" in host:
        host = f"[{host}]"
    return f"http://{host}:{port}"
