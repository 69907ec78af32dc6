"""What the terminal in front of us can do, found out without asking it anything."""

from __future__ import annotations

import codecs
import locale
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TextIO

_DUMB = {"", "dumb", "unknown", "emacs", "network", "dialup"}
_FALLBACK = os.terminal_size((80, 24))


@dataclass(frozen=True)
class Terminal:
    """How to talk to whoever started us."""

    reads: bool
    """Whether somebody types: standard input is a terminal."""
    shows: bool
    """Whether somebody looks: standard output is a terminal."""
    moves: bool
    """Whether the terminal moves its cursor and erases when it is told to."""
    colour: bool
    encoding: str
    """Of what is typed and shown."""
    unicode: bool
    """Whether characters beyond ASCII are sure to be shown as what they are."""
    name: str = ""
    """Its kind, as TERM says."""
    true_colour: bool = False
    """Whether it shows any colour, and not only those of a palette."""

    @property
    def rich(self) -> bool:
        """Whether it can be edited on and drawn to."""
        return self.reads and self.shows and self.moves


def look(environment: Mapping[str, str], stdin: TextIO, stdout: TextIO) -> Terminal:
    """What `environment` and the two streams tell."""
    name = environment.get("TERM", "")
    moves = os.name == "nt" or name.lower() not in _DUMB
    encoding, declared = _encoding(environment)
    return Terminal(
        reads=stdin.isatty(),
        shows=stdout.isatty(),
        moves=moves,
        colour=moves and not environment.get("NO_COLOR"),
        encoding=encoding,
        unicode=declared and encoding.startswith("utf"),
        name=name,
        true_colour=environment.get("COLORTERM", "") in ("truecolor", "24bit"),
    )


def size_of(stream: TextIO) -> os.terminal_size:
    """Columns and rows of the terminal that `stream` writes to; 80 by 24 where it won't say."""
    try:
        size = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        return _FALLBACK
    # A serial line has no size unless somebody sets it.
    return os.terminal_size((size.columns or _FALLBACK.columns, size.lines or _FALLBACK.lines))


def _encoding(environment: Mapping[str, str]) -> tuple[str, bool]:
    """The character set that the locale names, and whether it names one.

    The pack's own C library has no locales, so the interpreter can't tell.
    """
    if os.name == "nt":
        return "utf-8", True
    value = next(
        (environment[key] for key in ("LC_ALL", "LC_CTYPE", "LANG") if environment.get(key)), ""
    )
    if value in ("", "C", "POSIX"):
        return "utf-8", False
    named = value if "." in value else locale.normalize(value)
    charset = named.partition(".")[2].partition("@")[0] or value
    try:
        return codecs.lookup(charset).name, True
    except LookupError:
        return "utf-8", False
