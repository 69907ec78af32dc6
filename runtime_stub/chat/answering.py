"""One answer on the screen, as it grows."""

from __future__ import annotations

import time
from collections.abc import Callable

from runtime_stub.chat.clean import Cleaner
from runtime_stub.chat.drawing import Drawing
from runtime_stub.chat.markdown import Layout, blocks_of, closed
from runtime_stub.engine.messages import Event, PromptRead, Reasoning, Text

_PATIENCE = 0.4
"""Seconds of silence after which to say what is being waited for."""
_FRAME = 0.04


class Answer:
    """Blocks that are finished, and the one that is being written."""

    def __init__(
        self,
        drawing: Drawing,
        layout: Layout,
        waiting_for: Callable[[], str],
        *,
        shows_reasoning: bool,
        dots: str,
    ) -> None:
        self._drawing = drawing
        self._layout = layout
        self._waiting_for = waiting_for
        self._shows_reasoning = shows_reasoning
        self._dots = dots
        self._cleaner = Cleaner()
        self._text = ""
        """What is not drawn for good yet."""
        self._reasoning = ""
        self._thinks = False
        self._read = False
        self._started = time.monotonic()
        self._begun = False
        """Whether anything was drawn for good, from which a blank line divides what follows."""
        self._changed = False
        self._next_frame = 0.0

    def take(self, event: Event) -> None:
        """Take in an event, and draw it unless the last drawing was just now."""
        if isinstance(event, Text):
            self._end_reasoning()
            self._text += self._cleaner.feed(event.text)
            if not self._begun and not self._text.strip():
                self._text = ""
        elif isinstance(event, Reasoning):
            self._thinks = True
            self._reasoning += self._cleaner.feed(event.text)
        elif isinstance(event, PromptRead):
            self._read = True
        else:
            return
        self._changed = True
        self.draw()

    def draw(self) -> None:
        """Draw what has changed, or what is being waited for."""
        now = time.monotonic()
        if now < self._next_frame:
            return
        if self._text:
            if self._changed:
                self._draw_text()
        elif self._thinks and self._shows_reasoning:
            if self._changed:
                self._drawing.update(self._reasoning_lines())
        elif not self._begun and now - self._started > _PATIENCE:
            self._drawing.update(self._waiting_line(now - self._started))
        self._changed = False
        # Drawing must never take more than a third of the time.
        self._next_frame = now + max(_FRAME, 3 * (time.monotonic() - now))

    def finish(self, remark: str) -> None:
        """Draw all that is left, for good."""
        self._end_reasoning()
        self._text += self._cleaner.finish()
        lines = self._layout.document(blocks_of(self._text), self._drawing.width)
        if remark:
            dim = self._layout.plain(f"[{remark}]", self._drawing.width, "satchel.dim")
            lines += ["", *dim] if lines else dim
        self._drawing.finish(self._divided(lines))

    def _draw_text(self) -> None:
        width = self._drawing.width
        # Only whole lines: one that has just begun may look like the start of another block.
        blocks = blocks_of(self._text[: self._text.rfind("\n") + 1])
        if len(blocks) > 1:
            self._drawing.finish(self._divided(self._layout.document(blocks[:-1], width)))
            self._begun = True
            start = blocks[-1].start
            self._text = "".join(self._text.splitlines(keepends=True)[start:])
        blocks = blocks_of(closed(self._text))
        lines = self._layout.document(blocks, width)
        only_end = any(block.kind == "table_open" for block in blocks)
        self._drawing.update(self._divided(lines), only_end=only_end)

    def _divided(self, lines: list[str]) -> list[str]:
        return ["", *lines] if self._begun and lines else lines

    def _reasoning_lines(self) -> list[str]:
        return self._layout.plain(self._reasoning.strip(), self._drawing.width, "dim italic")

    def _end_reasoning(self) -> None:
        if not self._thinks:
            return
        self._thinks = False
        if self._shows_reasoning and self._reasoning.strip():
            self._reasoning += self._cleaner.finish()
            self._drawing.finish(self._reasoning_lines())
            self._begun = True

    def _waiting_line(self, seconds: float) -> list[str]:
        what = "thinking" if self._thinks else "writing" if self._read else self._waiting_for()
        passed = f" {seconds:.0f} s" if seconds >= 1 else ""
        text = f"{what}{self._dots}{passed}"
        return self._layout.plain(text, self._drawing.width, "satchel.dim")
