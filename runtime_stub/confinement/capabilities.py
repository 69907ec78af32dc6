"""Gives up the powers of root, where a pack is run by it."""

from __future__ import annotations

import ctypes
import struct

from runtime_stub.confinement.syscalls import call

_VERSION = 0x20080522
_KEPT = 1 << 1 | 1 << 2 | 1 << 3
"""To reach files as before, whoever owns them; Landlock says which."""


def drop_capabilities() -> None:
    """Keep of this thread's capabilities only those over files: others reach around what
    confines it, as that to watch every process. Raises OSError."""
    header = struct.pack("=Ii", _VERSION, 0)
    data = ctypes.create_string_buffer(24)
    call("capget", header, data)
    words = struct.unpack("=6I", data.raw)
    low, high = (word & _KEPT for word in words[:3]), (0, 0, 0)
    call("capset", header, struct.pack("=6I", *low, *high))
