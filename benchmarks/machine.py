"""What the operating system tells about processes and files, and what it is asked to forget."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Memory:
    """Bytes that processes hold together."""

    resident: int
    """What each sees, added up: pages that they share count for each."""
    proportional: int
    """The same with shared pages divided among those that share them."""


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for member in found:
        for task in Path(f"/proc/{member}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += [int(child) for child in task.read_text().split()]
    return found


def memory(pids: Iterable[int]) -> Memory:
    """What the processes hold now."""
    resident = proportional = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name == "Rss":
                resident += int(rest.split()[0]) * 1024
            elif name == "Pss":
                proportional += int(rest.split()[0]) * 1024
    return Memory(resident, proportional)


def files_below(*places: Path) -> list[Path]:
    """All files in folders, and those that are named themselves; no links."""
    found: list[Path] = []
    for place in places:
        members = place.rglob("*") if place.is_dir() else [place]
        found += [path for path in members if path.is_file() and not path.is_symlink()]
    return found


def used(folder: Path) -> int:
    """Bytes on disk below a folder."""
    return sum(path.lstat().st_blocks * 512 for path in files_below(folder))


def forget(files: Iterable[Path]) -> float:
    """Drop files from the page cache; returns the share of their bytes that is still there.

    Only these files, so that nobody else on the machine is slowed down.
    """
    total = kept = 0
    for path in files:
        with path.open("rb") as file:
            os.fdatasync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        pages, resident = _residency(path)
        total, kept = total + pages, kept + resident
    return kept / total if total else 0.0


def warm(files: Iterable[Path]) -> None:
    """Read files into the page cache."""
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 22):
                pass


def _residency(path: Path) -> tuple[int, int]:
    """Pages of a file, and how many of them are in memory."""
    size = path.stat().st_size
    if size == 0:
        return 0, 0
    pages = -(-size // mmap.PAGESIZE)
    state = (ctypes.c_ubyte * pages)()
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY) as view:
        start = ctypes.c_char.from_buffer(view)
        address = ctypes.c_void_p(ctypes.addressof(start))
        ctypes.CDLL(None, use_errno=True).mincore(address, ctypes.c_size_t(size), state)
        del start
    return pages, sum(page & 1 for page in state)


def description() -> str:
    """Processor, cores, memory, system, in one line."""
    name = platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = (line.partition(":")[2].strip() for line in lines if "model name" in line)
        name = next(names, name)
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    cores = len(os.sched_getaffinity(0))
    system = f"{platform.system()} {platform.release()}"
    return f"{name}, {cores} processors, {gigabytes:.0f} GB, {system}"
