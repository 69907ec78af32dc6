"""A terminal window for tests: a real pseudo-terminal, and what a person would see in it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pyte

ENTER, CONTROL_C, CONTROL_D, ESCAPE = "\r", "\x03", "\x04", "\x1b"


class Window:
    """Runs one program. `screen` shows what the terminal would, `raw` is all that was written."""

    def __init__(
        self,
        command: list[str | Path],
        environment: dict[str, str],
        *,
        columns: int = 80,
        rows: int = 24,
        encoding: str = "utf-8",
        folder: Path | None = None,
    ) -> None:
        self.raw = b""
        self.screen = pyte.HistoryScreen(columns, rows, history=10_000)
        self.encoding = encoding
        self._stream = pyte.ByteStream(self.screen)
        if encoding != "utf-8":
            self._stream.select_other_charset("@")
        words = [str(word) for word in command]
        self.process = pexpect.spawn(
            words[0],
            words[1:],
            env={"TERM": "xterm-256color", "LANG": "C.UTF-8", **environment},
            dimensions=(rows, columns),
            cwd=str(folder) if folder else None,
            timeout=60,
        )
        self.process.delaybeforesend = None

    @property
    def text(self) -> str:
        """What is on the screen, without blank ends."""
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip()

    @property
    def everything(self) -> str:
        """The screen, and before it what has scrolled out of it."""
        above = [
            "".join(line[column].data for column in range(self.screen.columns)).rstrip()
            for line in self.screen.history.top
        ]
        return "\n".join([*above, self.text])

    def type(self, text: str) -> None:
        self.process.send(text.encode(self.encoding))

    def wait(self, condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
        """Show what the program writes until `condition` is true; fails after `seconds`."""
        until = time.monotonic() + seconds
        while True:
            self.pump()
            if condition():
                return
            late = time.monotonic() > until or not self.process.isalive()
            if late:
                self.pump()
            assert condition() or not late, (
                f"no {what}; the screen:\n{self.text}\n{self.raw[-400:]!r}"
            )

    def wait_for(self, text: str, seconds: float = 60.0) -> None:
        self.wait(lambda: text in self.everything, f"{text!r}", seconds)

    def pump(self, seconds: float = 0.05) -> None:
        """Take in what the program writes now."""
        with contextlib.suppress(pexpect.TIMEOUT, pexpect.EOF):
            data = self.process.read_nonblocking(65536, timeout=seconds)
            self.raw += data
            self._stream.feed(data)

    def resize(self, columns: int, rows: int) -> None:
        self.process.setwinsize(rows, columns)
        self.screen.resize(rows, columns)

    def end(self, seconds: float = 30.0) -> int:
        """Wait for the program to end by itself; its exit code, negative for a signal."""
        self.wait(lambda: not self.process.isalive(), "end", seconds)
        self.pump()
        self.process.close()
        if self.process.signalstatus is not None:
            return -int(self.process.signalstatus)
        return int(self.process.exitstatus)

    def close(self) -> None:
        """End the program, whatever it does."""
        if self.process.isalive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGKILL)
        self.process.close(force=True)


@contextlib.contextmanager
def window(
    command: list[str | Path], environment: dict[str, str], **options: object
) -> Iterator[Window]:
    """A window that is closed in the end."""
    opened = Window(command, environment, **options)  # type: ignore[arg-type]
    try:
        yield opened
    finally:
        opened.close()
