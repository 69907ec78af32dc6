"""A connection that an event loop reads, on behalf of the thread that listens to it.

Between two threads, every token costs two wake-ups and a fight for the interpreter's lock, on
processors that the engine wants for itself. So where a loop passes the tokens on, it reads them
as well. The thread stays: it starts, watches and ends the process, and reads what comes while
there is no loop.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

from runtime_stub.engine.wire import Connection, Frame

_LOOK = 1.0
"""Seconds between looks whether a loop is still there."""


class EventLoop(Protocol):
    """As much of asyncio's event loops as is needed; not every one of them can read sockets."""

    def add_reader(self, fd: int, callback: Callable[..., Any], *args: Any) -> Any:
        """Call it whenever there is something to read."""

    def remove_reader(self, fd: int) -> Any:
        """Do not any more."""

    def call_soon_threadsafe(self, callback: Callable[..., Any], *args: Any) -> Any:
        """Call it in the loop. Raises RuntimeError when that is closed."""

    def is_closed(self) -> bool:
        """Whether it runs nothing any more."""


class Loan:
    """One connection in the hands of one loop, until that gives it back."""

    def __init__(
        self, connection: Connection, loop: EventLoop, on_frame: Callable[[Frame], None]
    ) -> None:
        """Lend it, with nothing taken from it left undone; from now on `loop` calls `on_frame`."""
        self._connection = connection
        self._descriptor = connection.fileno()
        self._loop = loop
        self._on_frame = on_frame
        self._heard = False
        self._error: Exception | None = None
        self._returned = threading.Event()
        self._lock = threading.Lock()
        """Guards who has the connection before and after the loop reads it."""
        self._reader: int | None = None
        """The loop's thread while it reads."""
        try:
            loop.call_soon_threadsafe(self._begin)
        except RuntimeError:
            self._returned.set()

    # The thread that listens

    def wait(self, seconds: float) -> bool:
        """Wait for so long, or until the connection is back; whether anything came meanwhile.

        Raises what ended the loop's reading: EOFError, WireError, or what `on_frame` raised.
        """
        self._returned.wait(seconds)
        if self._loop.is_closed():
            self._returned.set()
        if self._error is not None:
            raise self._error
        heard, self._heard = self._heard, False
        # A loop that does not get to read is no sign that nobody says anything.
        return heard or self.is_over or self._connection.wait(0)

    def settle(self) -> None:
        """Have it given back, and wait for that: only then may the connection be closed."""
        self.end()
        while not self._returned.wait(_LOOK):
            if self._loop.is_closed():
                self._returned.set()

    @property
    def is_over(self) -> bool:
        """Whether the connection is back."""
        return self._returned.is_set()

    # Any thread

    def end(self) -> None:
        """Have it given back, at once where this is the loop's own thread."""
        with self._lock:
            if self._reader is None:
                self._returned.set()
                return
        if self._reader == threading.get_ident():
            self._stop()
            return
        try:
            self._loop.call_soon_threadsafe(self._stop)
        except RuntimeError:
            self._returned.set()

    # The loop

    def _begin(self) -> None:
        with self._lock:
            if self.is_over:
                return
            self._reader = threading.get_ident()
        self._loop.add_reader(self._descriptor, self._read)

    def _read(self) -> None:
        self._heard = True
        try:
            for frame in self._connection.arrived():
                self._on_frame(frame)
        except Exception as error:  # noqa: BLE001  (raised in the thread that listens)
            self._stop(error)

    def _stop(self, error: Exception | None = None) -> None:
        if not self.is_over:
            self._loop.remove_reader(self._descriptor)
            self._error = error
            self._returned.set()
