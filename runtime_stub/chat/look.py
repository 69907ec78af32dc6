"""What a person sees of a pack besides its answers: name, greeting, starters, colour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runtime_stub.chat.clean import clean
from runtime_stub.chat.listing import laid_out
from runtime_stub.chat.terminal import Terminal

_BOLD, _DIM, _NORMAL = "\x1b[1m", "\x1b[90m", "\x1b[m"
_NARROW = 60
_CUBE = (0, 95, 135, 175, 215, 255)
"""Levels of red, green and blue that terminals with 256 colours have."""


@dataclass(frozen=True)
class Look:
    """The recipe's face, as a terminal shows it."""

    name: str
    greeting: str = ""
    starters: tuple[str, ...] = ()
    icon: str = ""
    accent: str = ""
    """A colour such as #2f6f4e."""

    @classmethod
    def of(cls, name: str, face: Mapping[str, Any]) -> Look:
        """The part of a recipe's `face` that a terminal can show."""
        icon = str(face.get("icon", ""))
        return cls(
            name=_line(name),
            greeting=clean(str(face.get("greeting", ""))).strip(),
            starters=tuple(map(_line, face.get("starters", ()))),
            icon="" if icon.startswith("data:") else _line(icon),
            accent=str(face.get("accent", "")),
        )

    @property
    def title(self) -> str:
        return f"{self.icon} {self.name}" if self.icon else self.name

    def placeholder(self, width: int) -> str:
        """What an empty line of so many columns shows."""
        if width < _NARROW:
            return "Ask anything, or /help"
        tab = ", Tab shows questions" if self.starters else ""
        return f"Ask anything{tab}, /help lists commands"

    def heading(self, terminal: Terminal, width: int) -> list[str]:
        """What comes before the first prompt, for a terminal that can be drawn to."""
        mark = "•" if terminal.unicode else "*"
        title = self.title if terminal.unicode or self.icon.isascii() else self.name
        lines = [f"{_BOLD}{self.colour(terminal)}{title}{_NORMAL}"]
        lines += laid_out(self.greeting.splitlines(), width)
        dim = _DIM if terminal.colour else ""
        if self.starters:
            lines.append("")
        for starter in self.starters:
            first, *more = laid_out([starter], width - 2)
            lines.append(f"{dim}{mark} {first}{_NORMAL}")
            lines += [f"{dim}  {line}{_NORMAL}" for line in more]
        return [*lines, ""]

    def colour(self, terminal: Terminal) -> str:
        """The sequence that switches to the accent colour, as far as the terminal has it."""
        if not self.accent or not terminal.colour:
            return ""
        parts = [int(self.accent[start : start + 2], 16) for start in (1, 3, 5)]
        if terminal.true_colour:
            return "\x1b[38;2;{};{};{}m".format(*parts)
        if "256" not in terminal.name:
            return ""
        red, green, blue = (_nearest(part) for part in parts)
        return f"\x1b[38;5;{16 + 36 * red + 6 * green + blue}m"


def _nearest(part: int) -> int:
    return min(range(len(_CUBE)), key=lambda level: abs(_CUBE[level] - part))


def _line(text: str) -> str:
    return " ".join(clean(text).split())
