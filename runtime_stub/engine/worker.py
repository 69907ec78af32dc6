"""The process of an engine, as the process that started it sees it: the connection, whether it is
alive, and how it ended."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from runtime_stub.engine.loan import EventLoop, Loan
from runtime_stub.engine.pulse import Pulse
from runtime_stub.engine.wire import Close, Connection, Frame, Ping, Start


class Process(Protocol):
    """A child process, as much of it as is needed; subprocess.Popen is one."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; the exit code, negative for a signal. Raises TimeoutExpired."""

    def terminate(self) -> None:
        """Tell it to end."""

    def kill(self) -> None:
        """Let the system end it."""


StartProcess = Callable[[int], Process]
"""Starts the engine's process, which inherits the socket of this number. Raises OSError."""


@dataclass(frozen=True)
class Begun:
    """A process that was started, and our end of the socket to it."""

    process: Process
    end: socket.socket
    knows: bool = False
    """Whether it knows already what to load."""


def begin(start: StartProcess) -> Begun:
    """Start a process. Raises OSError."""
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            return Begun(start(theirs.fileno()), ours)
        except OSError:
            ours.close()
            raise


class HungError(Exception):
    """The process neither works nor ends."""


class Worker:
    """One process, from its start to its end."""

    def __init__(self, begun: Begun, first: Start) -> None:
        """Say `first` to it, unless it knows."""
        self._process = begun.process
        self._connection = Connection(begun.end)
        if not begun.knows:
            self._connection.send(first)
        self._loan: Loan | None = None
        """Set while an event loop reads the connection."""
        self.worked = False
        """Whether it was given a request."""

    def give(self, frame: bytearray) -> None:
        """Hand it a request."""
        self.worked = True
        self._connection.send_frame(frame)

    def say(self, message: Any, request: int = 0) -> None:
        """Send it a message."""
        self._connection.send(message, request)

    def ask_to_end(self) -> None:
        """What it has in flight is given up."""
        self._connection.send(Close())

    def listen(
        self,
        look: float,
        on_frame: Callable[[Frame], None],
        on_silence: Callable[[], None],
        loop: Callable[[], EventLoop | None] = lambda: None,
    ) -> None:
        """Take in what it says until it is gone; after `look` seconds without a word
        `on_silence` is called.

        `loop` says, now and then, where it is read: in that event loop, which calls `on_frame`
        then, or in this thread. Raises WireError for nonsense and HungError when it says nothing
        any more.
        """
        pulse = Pulse()
        try:
            while True:
                if self._loan is None and (found := loop()) is not None and not found.is_closed():
                    self._loan = Loan(self._connection, found, on_frame)
                    if loop() is None:  # since then; `take_back` may have come too early
                        self._loan.end()
                if self._hear(look, on_frame):
                    pulse.heard()
                    continue
                if pulse.missed():
                    self.say(Ping())
                if pulse.lost:
                    raise HungError("the engine did not respond any more and was ended")
                on_silence()
        except EOFError:
            return
        finally:
            if self._loan is not None:
                self._loan.settle()

    def _hear(self, look: float, on_frame: Callable[[Frame], None]) -> bool:
        """Whether it said anything for a while. Raises EOFError when it is gone."""
        if self._loan is not None:
            heard = self._loan.wait(look)
            if self._loan.is_over:
                self._loan = None
            return heard
        if not self._connection.wait(look):
            return False
        for frame in self._connection.arrived():
            on_frame(frame)
        return True

    def take_back(self) -> None:
        """Read it in the thread that listens, from now on; `loop` must say so before."""
        if (loan := self._loan) is not None:
            loan.end()

    def reap(self, patience: float) -> int:
        """Give the connection up and wait for the end, after `patience` seconds by force; the
        exit code."""
        self._connection.close()
        try:
            return self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
        return self._process.wait()

    def terminate(self) -> None:
        """Tell it to end, where it did not when it was asked."""
        self._process.terminate()

    def kill(self) -> None:
        """Let the system end it."""
        self._process.kill()

    def break_off(self) -> None:
        """Let whoever listens to it see the end now."""
        self._connection.break_off()
