"""Standard streams that may be missing, and a place to put instead."""

from __future__ import annotations

import os
import sys


def open_null() -> int:
    """A descriptor that reads as empty: /dev/null, or a file in memory in a root without it."""
    try:
        return os.open(os.devnull, os.O_RDWR)
    except OSError:
        return os.memfd_create("null")


def open_missing_streams() -> None:
    """Put nothing where standard input, output or error is closed.

    Nothing has to ask whether they are there then, and no other file gets their numbers.
    """
    if None not in (sys.stdin, sys.stdout, sys.stderr):
        return
    while (descriptor := open_null()) < 3:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            stream = os.fdopen(number, mode, encoding="utf-8", errors="replace", closefd=False)
            setattr(sys, name, stream)
