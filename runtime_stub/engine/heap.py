"""Gives memory that was freed back to the kernel."""

from __future__ import annotations

import ctypes
import sys


def give_back_freed() -> None:
    """What was freed is kept by the C library for later; where it does, it lets go of that now."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
