"""The keyboard before any library is there, and where none is of use.

A terminal left to itself edits lines in the kernel, which cuts them after 4,095 bytes and shows
what is typed in the middle of an answer. So the kernel's editing is off while we run, and
`TypedLine` does the little that a dumb terminal needs.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import select
import signal
import sys
import unicodedata
from collections.abc import Iterator
from types import FrameType
from typing import Any, TextIO

CONTROL_C, CONTROL_D, CONTROL_U, ESCAPE = "\x03", "\x04", "\x15", "\x1b"
_ERASE = ("\x7f", "\b")
_ENTER = ("\r", "\n")
_PASTE_ON = "\x1b[?2004h"
_PASTE_OFF = "\x1b[?2004l\x1b[?25h"
"""Ask the terminal to mark what is pasted; and no more, with the cursor shown in any case."""


def width_of(character: str) -> int:
    """How many columns a terminal gives to a character."""
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


class TypedLine:
    """A line as it is typed, and what to show for each character of it."""

    def __init__(self) -> None:
        self.text = ""
        self.done = False
        """Whether Enter ended it."""
        self.over = False
        """Whether Ctrl-D on an empty line ended all input."""

    @property
    def columns(self) -> int:
        return sum(map(width_of, self.text))

    def take(self, character: str) -> str:
        """Take in a character; what to show for it."""
        if character in _ENTER:
            if self.text.endswith("\\"):
                self.text = f"{self.text[:-1]}\n"
                return "\r\n"
            self.done = True
            return "\r\n"
        if character in _ERASE:
            return self._erase(1)
        if character == CONTROL_U:
            return self._erase(len(self.text))
        if character == CONTROL_D and not self.text:
            self.over = True
            return "\r\n"
        if not character.isprintable():
            return ""
        self.text += character
        return character

    def _erase(self, count: int) -> str:
        shown = ""
        while count and self.text and not self.text.endswith("\n"):
            last, self.text = self.text[-1], self.text[:-1]
            columns = width_of(last)
            shown += "\b" * columns + " " * columns + "\b" * columns
            # What combines with a character goes with it.
            count -= columns > 0
        return shown


class Keyboard:
    """Takes the keyboard from the kernel, as a context manager: what is typed is neither shown
    nor edited, and none of it is ever dropped. Ctrl-C is a key like others, but where it shall
    be a signal (see `signals`)."""

    def __init__(self, stdin: TextIO, stdout: TextIO, *, marks_paste: bool, encoding: str) -> None:
        """`marks_paste`: the terminal can be asked to mark what is pasted."""
        self._descriptor = stdin.fileno()
        self._stdout = stdout
        self._marks_paste = marks_paste
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._before: list[Any] | None = None
        self._handlers: dict[int, Any] = {}
        self._waiting: list[str] = []
        self._was_enter = False
        self._signals = False
        self._is_lent = False
        self.echoes = True
        """Whether the terminal was set to show what is typed: else who runs us does."""

    def __enter__(self) -> Keyboard:
        with contextlib.suppress(ImportError):
            import termios

            self._before = termios.tcgetattr(self._descriptor)
            self.echoes = bool(self._before[3] & termios.ECHO)
            early = self._read_waiting()
            self._set()
            # What came before still has the kernel's line ends.
            early += self._read_waiting()
            self._waiting += self._decoder.decode(early.replace(b"\n", b"\r"))
            for number in (signal.SIGTERM, signal.SIGHUP):
                self._handlers[number] = signal.signal(number, self._end)
            self._handlers[signal.SIGCONT] = signal.signal(signal.SIGCONT, self._continue)
        if self._marks_paste:
            self._write(_PASTE_ON)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        with contextlib.suppress(OSError):
            self._stdout.flush()
        self._restore()

    def signals(self, on: bool) -> None:
        """Whether Ctrl-C interrupts from now on, as it should while an answer is shown."""
        self._signals = on
        self._set()

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """Meanwhile the terminal is as it was before us, for another program."""
        with contextlib.suppress(OSError):
            self._stdout.flush()
        self._is_lent = True
        self._restore()
        try:
            yield
        finally:
            self._is_lent = False
            self._set()
            if self._marks_paste:
                self._write(_PASTE_ON)

    def read(self, wake: int | None = None, timeout: float | None = None) -> list[str]:
        """Characters typed, after waiting for the first; none when `wake` can be read before.

        Raises EOFError when the terminal is gone.
        """
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            return waiting
        watched = [self._descriptor] + ([wake] if wake is not None else [])
        ready, _, _ = select.select(watched, [], [], timeout)
        if self._descriptor not in ready:
            return []
        try:
            data = os.read(self._descriptor, 4096)
        except OSError:
            data = b""
        if not data:
            raise EOFError
        return list(self._decoder.decode(data))

    def put_back(self, characters: list[str]) -> None:
        """Have `characters` read again, first."""
        self._waiting = characters + self._waiting

    def read_line(self) -> str | None:
        """A line, edited the little that any terminal can; None when input has ended.

        A backslash at the end of a line continues it. Raises KeyboardInterrupt.
        """
        line = TypedLine()
        while True:
            try:
                characters = self.read()
            except EOFError:
                return line.text or None
            for index, character in enumerate(characters):
                # Some terminals send both for one Enter.
                second, self._was_enter = character == "\n" and self._was_enter, character == "\r"
                if second:
                    continue
                if character == CONTROL_C:
                    self.put_back(characters[index + 1 :])
                    raise KeyboardInterrupt
                shown = line.take(character)
                if self.echoes:
                    self._write(shown)
                if line.done or line.over:
                    self.put_back(characters[index + 1 :])
                    return line.text if line.done else None

    def _read_waiting(self) -> bytes:
        data = b""
        while select.select([self._descriptor], [], [], 0)[0]:
            try:
                more = os.read(self._descriptor, 4096)
            except OSError:
                break
            if not more:
                break
            data += more
        return data

    def _set(self) -> None:
        if self._before is not None:
            import termios

            mode = [*self._before[:6], list(self._before[6])]
            mode[0] &= ~termios.ICRNL
            mode[3] &= ~(termios.ICANON | termios.ECHO | termios.IEXTEN | termios.ISIG)
            mode[3] |= termios.ISIG if self._signals else 0
            mode[3] |= termios.NOFLSH  # Ctrl-C stops an answer, not what is typed meanwhile
            mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
            termios.tcsetattr(self._descriptor, termios.TCSANOW, mode)

    def _restore(self) -> None:
        if self._marks_paste:
            # Past the stream: a signal may have come in the middle of its writing.
            with contextlib.suppress(OSError):
                os.write(self._stdout.fileno(), _PASTE_OFF.encode())
        if self._before is not None:
            import termios

            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._descriptor, termios.TCSANOW, self._before)

    def _end(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._restore()
        os._exit(128 + number)  # as a shell tells of a signal; nothing here needs to be saved

    def _continue(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        import termios

        with contextlib.suppress(termios.error):
            if not self._is_lent:
                self._set()

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._stdout.write(text)
            self._stdout.flush()


def show_early_prompt(keyboard: Keyboard, prompt: str, columns: int, wake: int) -> list[str]:
    """A prompt that shows what is typed until `wake` can be read, and then is wiped away.

    Returns everything typed, for the editor that takes over. It shows a plain line as it is
    typed; from the first key on that means more, the editor will have to show the rest.
    """
    out = sys.stdout
    out.write(prompt)
    out.flush()
    line = TypedLine()
    typed: list[str] = []
    plain = True
    start = len(prompt)
    while True:
        try:
            characters = keyboard.read(wake)
        except EOFError:
            characters = [CONTROL_D]
        if not characters:
            break
        for character in characters:
            typed.append(character)
            if character == CONTROL_C:
                typed, line, plain = [], TypedLine(), True
                out.write(f"\r\x1b[J{prompt}")
                continue
            more = character not in _ERASE and not character.isprintable()
            plain = plain and not more and start + line.columns < columns - 2
            if plain:
                out.write(line.take(character))
        out.flush()
        if characters == [CONTROL_D]:
            break
    out.write("\r\x1b[J")
    out.flush()
    return typed
