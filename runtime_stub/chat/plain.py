"""The face for pipes and for terminals that can do nothing: text in, text out."""

from __future__ import annotations

import contextlib
import sys

from runtime_stub.chat.clean import Cleaner, clean
from runtime_stub.chat.commands import Commands
from runtime_stub.chat.keyboard import Keyboard
from runtime_stub.chat.listing import laid_out
from runtime_stub.chat.terminal import Terminal, size_of
from runtime_stub.engine.messages import Event, Reasoning, Text


class PlainFace:
    """Writes answers to standard output as they come, and all else to standard error."""

    def __init__(self, terminal: Terminal, commands: Commands, keyboard: Keyboard | None) -> None:
        """`keyboard` is None when nobody types."""
        self._terminal = terminal
        self._commands = commands
        self._keyboard = keyboard
        self._text = Cleaner()
        self._reasoning = Cleaner()
        self._reasoned = False

    def read(self, default: str = "") -> str | None:
        """A line, without editing of what was."""
        if self._keyboard is None:
            line = sys.stdin.readline()
            return line.rstrip("\r\n") if line else None
        if default:
            self.listing([clean(default)])
            self.notice("Type it anew; an empty line leaves it as it is")
        while True:
            self._tell("> ")
            try:
                return self._keyboard.read_line()
            except KeyboardInterrupt:
                self._tell("\n")
                self.notice("Ctrl-D, or /quit, leaves")

    def begin(self) -> None:
        self._text, self._reasoning, self._reasoned = Cleaner(), Cleaner(), False
        if self._keyboard is not None:
            self._keyboard.signals(True)

    def show(self, event: Event) -> None:
        if isinstance(event, Text):
            if self._reasoned:
                self._tell("\n\n")
                self._reasoned = False
            # What is piped on is the answer itself; only a terminal must not be trusted with it.
            self._write(self._text.feed(event.text) if self._terminal.shows else event.text)
        elif isinstance(event, Reasoning) and self._shows_reasoning:
            text = self._reasoning.feed(event.text)
            self._tell(f"\x1b[2m{text}\x1b[m" if self._terminal.moves else text)
            self._reasoned = True

    def end(self, *, stopped: bool) -> None:
        rest = self._text.finish()
        self._write(f"{rest} [stopped]\n\n" if stopped else f"{rest}\n\n")
        if self._keyboard is not None:
            self._keyboard.signals(False)

    def notice(self, text: str) -> None:
        self._tell(f"({clean(text).rstrip('.')}.)\n")

    def listing(self, lines: list[str]) -> None:
        columns = size_of(sys.stdout).columns - 1
        self._tell("".join(f"{line}\n" for line in laid_out(map(clean, lines), columns)))

    def lent(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self._keyboard is None else self._keyboard.lent()

    @property
    def _shows_reasoning(self) -> bool:
        return self._commands.shows_reasoning and sys.stderr.isatty()

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    def _tell(self, text: str) -> None:
        """To the person, who may not be where the answers go."""
        with contextlib.suppress(OSError):
            stream = sys.stdout if self._terminal.shows else sys.stderr
            stream.write(text)
            stream.flush()
