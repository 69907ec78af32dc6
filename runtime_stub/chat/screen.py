"""The face for terminals that can be drawn to: an editor, and answers as rendered Markdown."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from runtime_stub.chat.background import BackgroundEngine
from runtime_stub.chat.clean import clean
from runtime_stub.chat.commands import Commands
from runtime_stub.chat.drawing import Drawing
from runtime_stub.chat.editor import Editor
from runtime_stub.chat.keyboard import Keyboard
from runtime_stub.chat.listing import laid_out
from runtime_stub.chat.terminal import Terminal
from runtime_stub.engine.messages import Event

if TYPE_CHECKING:
    from runtime_stub.chat.answering import Answer
    from runtime_stub.chat.markdown import Layout

_HIDE_CURSOR, _SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
_TICK = 0.1


class Screen:
    """Reads with the editor, and draws answers as they grow."""

    def __init__(
        self,
        stream: TextIO,
        terminal: Terminal,
        keyboard: Keyboard,
        editor: Editor,
        commands: Commands,
        engine: Callable[[], BackgroundEngine],
        troubles: list[str],
    ) -> None:
        """What is put into `troubles` meanwhile is told after the next line."""
        self._stream = stream
        self._terminal = terminal
        self._keyboard = keyboard
        self._editor = editor
        self._made_layout: Layout | None = None
        self._commands = commands
        self._engine = engine
        self._troubles = troubles
        self._drawing = Drawing(stream)
        self._answer: Answer | None = None
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._ticker: threading.Thread | None = None

    def read(self, default: str = "") -> str | None:
        text = self._editor.read(default)
        if text is not None and text.strip():
            self._line("")
        while self._troubles:
            self.notice(self._troubles.pop(0))
        return text

    def begin(self) -> None:
        from runtime_stub.chat.answering import Answer

        self._keyboard.signals(True)
        self._stream.write(_HIDE_CURSOR)
        self._answer = Answer(
            self._drawing,
            self._layout,
            self._waiting_for,
            shows_reasoning=self._commands.shows_reasoning,
            dots="…" if self._terminal.unicode else "...",
        )
        self._over.clear()
        self._ticker = threading.Thread(target=self._tick, name="ticker", daemon=True)
        self._ticker.start()

    def show(self, event: Event) -> None:
        with self._lock:
            if self._answer is not None:
                self._answer.take(event)

    def end(self, *, stopped: bool) -> None:
        self._over.set()
        if self._ticker is not None:
            self._ticker.join()
        with self._lock:
            if self._answer is not None:
                self._answer.finish("stopped" if stopped else "")
            self._answer = None
        self._line(_SHOW_CURSOR)
        self._keyboard.signals(False)

    def notice(self, text: str) -> None:
        width = self._drawing.width
        lines = self._layout.plain(clean(text).rstrip("."), width, "satchel.dim")
        with self._lock:
            self._drawing.clear()
            self._line("\r\n".join(lines))
            if self._answer is None:
                self._line("")

    def listing(self, lines: list[str]) -> None:
        self._line("\r\n".join(laid_out(map(clean, lines), self._drawing.width)))
        self._line("")

    def lent(self) -> contextlib.AbstractContextManager[None]:
        return self._keyboard.lent()

    @property
    def _layout(self) -> Layout:
        """Made when it is needed: what it takes is imported while the first question is typed."""
        if self._made_layout is None:
            from runtime_stub.chat.markdown import Layout

            self._made_layout = Layout(self._terminal)
        return self._made_layout

    def _line(self, text: str) -> None:
        self._stream.write(f"{text}\r\n")
        self._stream.flush()

    def _tick(self) -> None:
        """Draw what came too soon after the last drawing, and how long nothing has come."""
        while not self._over.wait(_TICK):
            with self._lock:
                if self._answer is not None:
                    self._answer.draw()

    def _waiting_for(self) -> str:
        return loading_state(self._engine()) or "reading"


def loading_state(engine: BackgroundEngine) -> str:
    """What an engine that is not ready yet is doing, in words."""
    status = engine.status
    if status.state != "loading":
        return ""
    step = "extracting the model" if engine.extracting else "loading the model"
    return f"{step} {status.progress:.0%}" if status.progress else step
