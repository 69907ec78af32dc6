"""What is to be written to a socket: at once where it takes it, else by a thread of its own.

Waking a thread for every write costs more than most writes do, on processors that the engine wants
for itself. So whoever sends writes, and never waits: what does not fit into the socket's buffer is
left to the thread, and so is what follows, until it has caught up.
"""

from __future__ import annotations

import select
import socket
import threading

_AT_ONCE: int | None = getattr(socket, "MSG_DONTWAIT", None)
"""Tells the system not to wait; None where it knows no such thing."""


class Outbox:
    """The sending side of a stream socket. Safe to use from any thread, and never waits."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._lock = threading.Lock()
        """Guards all that follows."""
        self._changed = threading.Condition(self._lock)
        self._gathered = bytearray()
        self._backlog = bytearray()
        """What the thread is to write."""
        self._behind = False
        """Whether the thread has anything to write, or is writing."""
        self._over = False
        """Whether nothing can be sent any more."""
        self._writer: threading.Thread | None = None

    def send(self, data: bytes | bytearray) -> None:
        """Write `data`, behind all that came before it."""
        with self._lock:
            self._gathered += data
            self._pass_on()

    def gather(self, data: bytes | bytearray) -> None:
        """Write `data` together with what is sent next, or at `flush`."""
        with self._lock:
            self._gathered += data

    def flush(self) -> None:
        """Write what was gathered."""
        if self._gathered:
            with self._lock:
                self._pass_on()

    def finish(self, timeout: float) -> None:
        """Wait until all is written, for at most `timeout` seconds; what is sent later is lost."""
        with self._changed:
            self._pass_on()
            self._over = True
            self._changed.notify_all()
            writer = self._writer
        if writer is not None:
            writer.join(timeout)

    def _pass_on(self) -> None:
        data, self._gathered = self._gathered, bytearray()
        if self._over:
            return
        if not self._behind:
            del data[: self._write_now(data)]
        if not data or self._over:
            return
        self._backlog += data
        self._behind = True
        if self._writer is None:
            self._writer = threading.Thread(target=self._write, name="engine-writer", daemon=True)
            self._writer.start()
        self._changed.notify_all()

    def _write_now(self, data: bytearray) -> int:
        """How much of it the socket took. If the other end is gone, nothing follows."""
        if _AT_ONCE is None:
            return 0
        try:
            return self._socket.send(data, _AT_ONCE)
        except BlockingIOError:
            return 0
        except OSError:
            self._over = True
            return 0

    def _write(self) -> None:
        while True:
            with self._changed:
                self._behind = bool(self._backlog)
                while not self._backlog and not self._over:
                    self._changed.wait()
                if not self._backlog:
                    return
                data, self._backlog = self._backlog, bytearray()
            try:
                self._write_all(memoryview(data))
            except (OSError, ValueError):  # closed by now, maybe
                with self._changed:
                    self._over, self._backlog = True, bytearray()
                return

    def _write_all(self, data: memoryview) -> None:
        while data:
            try:
                data = data[self._socket.send(data) :]
            except BlockingIOError:
                select.select([], [self._socket], [])
