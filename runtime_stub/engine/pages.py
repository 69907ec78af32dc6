"""Gives memory that holds nothing but zeros, or was freed, back to the kernel.

llama.cpp writes zeros over its cache when it makes one, so that all of it is resident from the
start, however little of it is ever used: 188 MB with SmolLM2 and 8,192 tokens, gigabytes with large
models. To a reader, pages that were given back are still zeros; they take memory when somebody
writes to them.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

Range = tuple[int, int]
"""First address, and the one after the last."""

_BLOCK = 1 << 20
_SMALLEST = 4 * _BLOCK
"""Of a new mapping, to be worth looking at."""
_NEVER = 1000.0
"""Seconds; longer than looking at a block takes."""


def private_memory(maps: Path = Path("/proc/self/maps")) -> list[Range]:
    """This process's writable memory that belongs to no file, in ascending order; empty where the
    system does not tell."""
    try:
        lines = maps.read_text(errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        columns = line.split()
        if columns[1] == "rw-p" and len(columns) == 5:  # it has no name
            start, end = columns[0].split("-")
            found.append((int(start, 16), int(end, 16)))
    return found


def added(before: Sequence[Range], after: Sequence[Range]) -> list[Range]:
    """What of `after` was not in `before`, without small pieces. Neighbours are one mapping to the
    kernel, so that what is new may be a part of a range."""
    found = []
    for begin, end in after:
        start = begin
        for old_start, old_end in before:
            if old_end <= start or end <= old_start:
                continue
            if start < old_start:
                found.append((start, old_start))
            start = max(start, old_end)
        if start < end:
            found.append((start, end))
    return [piece for piece in found if piece[1] - piece[0] >= _SMALLEST]


def common_parts(some: Iterable[Range], others: Sequence[Range]) -> list[Range]:
    """What lies in both."""
    pairs = ((max(a[0], b[0]), min(a[1], b[1])) for a in some for b in others)
    return [(start, end) for start, end in pairs if start < end]


def give_back_freed() -> None:
    """What was freed is kept by the C library for later; where it does, it lets go of that now."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def give_back_zeros(ranges: Iterable[Range]) -> int:
    """Give back the blocks of `ranges` that hold only zeros; returns how many bytes that were. What
    is no memory of this process any more is left alone.

    No native code may be writing there. Python's other threads are held up meanwhile, block by
    block, so that none writes between the look and the deed.
    """
    # Unlike CDLL, PyDLL keeps the interpreter's lock while it calls.
    libc = ctypes.PyDLL(None)
    libc.memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    total = 0
    for start, end in common_parts(ranges, private_memory()):
        for address in range(-(-start // _BLOCK) * _BLOCK, end - _BLOCK + 1, _BLOCK):
            total += _give_back(libc, address)
    return total


def _give_back(libc: ctypes.PyDLL, address: int) -> int:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_NEVER)
    try:
        first = ctypes.c_ubyte.from_address(address).value
        if first or libc.memcmp(address, address + 1, _BLOCK - 1):
            return 0
        return 0 if libc.madvise(address, _BLOCK, mmap.MADV_DONTNEED) else _BLOCK
    finally:
        sys.setswitchinterval(interval)
