"""Listings for a terminal of any width."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

_NARROW = 60


def laid_out(lines: Iterable[str], width: int) -> list[str]:
    """`lines` wrapped to `width`; where they hold tabs, what is left of them is aligned, and
    in a narrow terminal has a line to itself."""
    rows = [line.partition("\t") for line in lines]
    column = max((len(left) for left, tab, _ in rows if tab), default=0) + 2
    found: list[str] = []
    for left, tab, right in rows:
        if not tab:
            found += textwrap.wrap(left, width) or [""]
        elif width < _NARROW:
            found.append(left)
            found += _wrapped(right, "  ", "  ", width)
        else:
            found += _wrapped(right, left.ljust(column), " " * column, width)
    return found


def _wrapped(text: str, first: str, then: str, width: int) -> list[str]:
    found = textwrap.wrap(
        text, max(width, len(then) + 8), initial_indent=first, subsequent_indent=then
    )
    return found or [first.rstrip()]
