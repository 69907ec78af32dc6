"""Draws what grows at the bottom of the screen, writing only the lines that changed."""

from __future__ import annotations

import contextlib
from typing import TextIO

from runtime_stub.chat.terminal import size_of


class Drawing:
    """A region above the cursor that is redrawn until it is finished.

    What has scrolled out of the screen can't be changed any more, so lines that leave it
    are final; a region whose lines all change (a table) shows only its end until it is done.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shown: list[str] = []
        self._columns = 0

    @property
    def width(self) -> int:
        """Columns to lay out for; one less than there are, which no terminal wraps."""
        return size_of(self._stream).columns - 1

    def update(self, lines: list[str], *, only_end: bool = False) -> None:
        """Show `lines` in place of those that the region had."""
        size = size_of(self._stream)
        visible = max(1, size.lines - 1)
        if only_end:
            lines = lines[-visible:]
        if self._shown and size.columns != self._columns:
            self._rewrap(size.columns, visible)
            self._shown = lines[:-visible] if len(self._shown) > visible else []
        self._columns = size.columns
        old = self._shown
        same = 0
        while same < min(len(old), len(lines)) and old[same] == lines[same]:
            same += 1
        # What is above the screen stays as it is.
        same = max(same, len(old) - visible)
        if same >= len(lines) and len(old) == len(lines):
            return
        out = self._to(same)
        out += "".join(f"{line}\x1b[K\r\n" for line in lines[same:])
        if len(old) > len(lines):
            out += "\x1b[J"
        self._shown = lines
        self._write(out)

    def finish(self, lines: list[str]) -> None:
        """Show `lines` for good, and begin a new region beneath them."""
        self.update(lines)
        self._shown = []

    def clear(self) -> None:
        """Remove the region."""
        self.update([])

    def _to(self, line: int) -> str:
        """The way up to the start of one of the region's lines."""
        up = len(self._shown) - line
        return f"\r\x1b[{up}A" if up > 0 else "\r"

    def _rewrap(self, columns: int, visible: int) -> None:
        """Erase all of the region that is still on a screen whose width has changed.

        Terminals break lines anew that are too long now; those that don't leave a line blank.
        """
        from rich.cells import cell_len
        from rich.text import Text

        if columns < self._columns:
            rows = sum(
                max(1, -(-cell_len(Text.from_ansi(line).plain) // columns)) for line in self._shown
            )
        else:
            rows = len(self._shown)
        rows = min(rows, visible)
        self._write(f"\r\x1b[{rows}A\x1b[J" if rows else "")

    def _write(self, text: str) -> None:
        with contextlib.suppress(BlockingIOError):
            self._stream.write(text)
            self._stream.flush()
