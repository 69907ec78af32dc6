"""Does what a person asks for, for a process that may not: opens the files that a person names,
the editor and the browser.

    chat (confined) ── request, JSON ──> broker (forked before, free) ── open, start ──> host
                    <── errno, descriptor ──

A pair of sockets is all that joins the two. The broker does nothing that it was not forked for
(see `Offer`), and even so doubts what it is asked: it touches regular files only, replaces none
unasked, and writes to no hidden file or folder, where shells and desktops keep what they run.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, Protocol

from runtime_stub.children import close_all_but, open_browser, run_editor
from runtime_stub.confinement.files import (
    Writing,
    begin_writing,
    open_to_read,
    refuse_hidden,
    remove_socket,
)
from runtime_stub.environment import Launch

_LONGEST_REQUEST = 64 << 10


class Offer(enum.Flag):
    """What a broker is there for."""

    FILES = enum.auto()
    EDITOR = enum.auto()
    BROWSER = enum.auto()
    SOCKET = enum.auto()


class Broker(Protocol):
    """The way to what lies outside, whether a process is confined or not."""

    def reading(self, path: Path) -> contextlib.AbstractContextManager[BinaryIO]:
        """The file at `path`, to read. Raises OSError."""

    def writing(
        self, path: Path, *, replace: bool = False
    ) -> contextlib.AbstractContextManager[BinaryIO]:
        """A file that gets the name `path` when the block succeeds, and leaves nothing behind
        when it does not. Raises OSError: FileExistsError unless it shall `replace` one."""

    def edit(self, text: str) -> str | None:
        """The text as the person leaves it in their editor, None when that failed. Raises
        OSError when there is no editor."""

    def browse(self, address: str) -> bool:
        """Show `address` in the browser; False when there is none."""

    def remove_socket(self, path: Path, identity: tuple[int, int]) -> None:
        """Remove a Unix socket, if it is still the file that `identity` (device, inode) says."""

    def close(self) -> None:
        """It is not needed any more."""


class DirectBroker:
    """Does everything itself, in a process that is not confined."""

    def __init__(self, launch: Launch) -> None:
        self._launch = launch

    @contextlib.contextmanager
    def reading(self, path: Path) -> Iterator[BinaryIO]:
        with os.fdopen(open_to_read(path), "rb") as stream:
            yield stream

    @contextlib.contextmanager
    def writing(self, path: Path, *, replace: bool = False) -> Iterator[BinaryIO]:
        begun = begin_writing(path, replace=replace)
        try:
            with os.fdopen(begun.descriptor, "wb") as stream:
                yield stream
                stream.flush()
                begun.finish()
        except BaseException:
            begun.abandon()
            raise

    def edit(self, text: str) -> str | None:
        with _deaf():
            return run_editor(self._launch, text)

    def browse(self, address: str) -> bool:
        return open_browser(self._launch, address)

    def remove_socket(self, path: Path, identity: tuple[int, int]) -> None:
        remove_socket(path, identity)

    def close(self) -> None:
        pass


class ForkedBroker:
    """Asks the process that was forked for it. Used by one thread at a time."""

    def __init__(self, end: socket.socket, process: int) -> None:
        self._end = end
        self._process = process

    @contextlib.contextmanager
    def reading(self, path: Path) -> Iterator[BinaryIO]:
        with os.fdopen(self._descriptor({"do": "read", "path": str(path)}), "rb") as stream:
            yield stream

    @contextlib.contextmanager
    def writing(self, path: Path, *, replace: bool = False) -> Iterator[BinaryIO]:
        request = {"do": "write", "path": str(path), "replace": replace}
        descriptor = self._descriptor(request)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                yield stream
                stream.flush()
            self._ask({"do": "finish"})
        except BaseException:
            with contextlib.suppress(OSError):
                self._ask({"do": "abandon"})
            raise

    def edit(self, text: str) -> str | None:
        with _memory(text.encode(errors="replace")) as given, _deaf():
            reply, descriptor = self._exchange({"do": "edit"}, given.fileno())
        _raise(reply)
        if descriptor is None:
            return None
        with os.fdopen(descriptor, "rb") as stream:
            stream.seek(0)
            return stream.read().decode(errors="replace")

    def browse(self, address: str) -> bool:
        return bool(self._ask({"do": "browse", "address": address}).get("done"))

    def remove_socket(self, path: Path, identity: tuple[int, int]) -> None:
        with contextlib.suppress(OSError):
            self._ask({"do": "remove", "path": str(path), "identity": list(identity)})

    def close(self) -> None:
        self._end.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._process, 0)

    def _descriptor(self, request: dict[str, Any]) -> int:
        reply, descriptor = self._exchange(request)
        _raise(reply, request.get("path"))
        if descriptor is None:
            raise OSError(errno.EPROTO, os.strerror(errno.EPROTO))
        return descriptor

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        reply, _ = self._exchange(request)
        _raise(reply, request.get("path"))
        return reply

    def _exchange(
        self, request: dict[str, Any], given: int | None = None
    ) -> tuple[dict[str, Any], int | None]:
        data = json.dumps(request).encode()
        if len(data) > _LONGEST_REQUEST:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        _send(self._end, request, given)
        received = _receive(self._end)
        if received is None:
            raise OSError(errno.EPIPE, "the process that opens files is gone")
        return received


def fork_broker(launch: Launch, offers: Offer) -> ForkedBroker:
    """Start a broker for what it `offers`. Before any other thread, and before confining.

    Raises OSError.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = os.fork()
    if not process:
        _serve(launch, offers, theirs)
    theirs.close()
    return ForkedBroker(ours, process)


def _serve(launch: Launch, offers: Offer, end: socket.socket) -> NoReturn:
    """The forked process: never comes back."""
    try:
        # A handler, unlike "ignore", is not inherited by the programs it starts.
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        close_all_but({end.fileno()})
        _Server(launch, offers).run(end)
    finally:
        os._exit(0)


@dataclass
class _Server:
    launch: Launch
    offers: Offer
    begun: Writing | None = None
    deeds: dict[str, tuple[Offer, Callable[..., Any]]] = field(init=False)

    def __post_init__(self) -> None:
        self.deeds = {
            "read": (Offer.FILES, self._read),
            "write": (Offer.FILES, self._write),
            "finish": (Offer.FILES, self._finish),
            "abandon": (Offer.FILES, self._abandon),
            "edit": (Offer.EDITOR, self._edit),
            "browse": (Offer.BROWSER, self._browse),
            "remove": (Offer.SOCKET, self._remove),
        }

    def run(self, end: socket.socket) -> None:
        while (received := _receive(end)) is not None:
            request, given = received
            reply, descriptor = self._answer(request, given)
            try:
                _send(end, reply, descriptor)
            finally:
                for number in (given, descriptor):
                    if number is not None and number != self._kept():
                        os.close(number)
        self._abandon({}, None)

    def _kept(self) -> int | None:
        return self.begun.descriptor if self.begun is not None else None

    def _answer(
        self, request: dict[str, Any], given: int | None
    ) -> tuple[dict[str, Any], int | None]:
        offer, deed = self.deeds.get(str(request.get("do")), (None, None))
        try:
            if deed is None or offer is None or offer not in self.offers:
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
            result = deed(request, given)
        except OSError as error:
            return {"errno": error.errno or errno.EIO, "reason": error.strerror}, None
        except Exception as error:  # noqa: BLE001  (whatever it is asked, it goes on)
            return {"errno": errno.EIO, "reason": str(error)}, None
        return ({"done": True}, result) if isinstance(result, int) else ({"done": result}, None)

    def _read(self, request: dict[str, Any], _given: int | None) -> int:
        return open_to_read(Path(request["path"]))

    def _write(self, request: dict[str, Any], _given: int | None) -> int:
        self._abandon(request, None)
        path = Path(request["path"]).absolute()
        refuse_hidden(path)
        self.begun = begin_writing(path, replace=bool(request["replace"]))
        return self.begun.descriptor

    def _finish(self, _request: dict[str, Any], _given: int | None) -> None:
        begun, self.begun = self.begun, None
        if begun is None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        try:
            begun.finish()
        except OSError:
            begun.abandon()
            raise
        finally:
            os.close(begun.descriptor)

    def _abandon(self, _request: dict[str, Any], _given: int | None) -> None:
        begun, self.begun = self.begun, None
        if begun is not None:
            os.close(begun.descriptor)
            begun.abandon()

    def _edit(self, _request: dict[str, Any], given: int | None) -> int | None:
        if given is None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        with os.fdopen(os.dup(given), "rb") as stream:
            stream.seek(0)
            text = stream.read().decode(errors="replace")
        edited = run_editor(self.launch, text)
        if edited is None:
            return None
        with _memory(edited.encode(errors="replace")) as memory:
            return os.dup(memory.fileno())

    def _browse(self, request: dict[str, Any], _given: int | None) -> bool:
        address = str(request["address"])
        # Nothing but a page: an option or a file of the browser's would be something else.
        if not address.startswith(("http://127.", "http://localhost", "http://[")):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return open_browser(self.launch, address)

    def _remove(self, request: dict[str, Any], _given: int | None) -> None:
        device, inode = request["identity"]
        remove_socket(Path(request["path"]), (int(device), int(inode)))


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Ctrl-C is for the editor while it has the terminal."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # A handler, unlike "ignore", is not inherited by the programs that are started.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _memory(data: bytes) -> FileIO:
    """A file in memory."""
    stream = FileIO(os.memfd_create("text", os.MFD_CLOEXEC), "r+")
    view = memoryview(data)
    while view:
        view = view[stream.write(view) :]
    return stream


def _send(end: socket.socket, message: dict[str, Any], descriptor: int | None) -> None:
    data = json.dumps(message).encode()
    if descriptor is None:
        end.send(data)
    else:
        socket.send_fds(end, [data], [descriptor])


def _receive(end: socket.socket) -> tuple[dict[str, Any], int | None] | None:
    """The next message, and the descriptor that came with it; None when the other end is gone."""
    try:
        data, descriptors, flags, _ = socket.recv_fds(end, _LONGEST_REQUEST + 1, 1)
    except OSError:
        return None
    for number in descriptors:
        os.set_inheritable(number, False)
    del flags
    if not data:
        return None
    message = json.loads(data)
    return message, descriptors[0] if descriptors else None


def _raise(reply: dict[str, Any], path: str | None = None) -> None:
    """Raise what the broker could not do, as if it had happened here."""
    if "errno" in reply:
        raise OSError(reply["errno"], reply["reason"], path)
