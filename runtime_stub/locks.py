"""Locks between processes, which the system releases when their holder dies.

On a file system without locks there are none: unique names and renaming keep things whole
there, and what nobody can know to be unused is not removed unless a person asks for it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path

_POLL_SECONDS = 0.02
_QUIET_SECONDS = 0.5
_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


class Taken(Enum):
    """What came of asking for a lock."""

    YES = "it is ours"
    NO = "somebody else has it"
    UNKNOWN = "this file system has no locks"


@contextlib.contextmanager
def lock(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold an exclusive lock on `path` (created if missing).

    `on_wait` is called once when somebody else has held it for half a second.
    """
    started = time.monotonic()
    said = False
    while True:
        descriptor = _open_lock(path)
        try:
            taken = _try(descriptor)
            # Whoever clears the cache may have removed the file while we waited for it: then
            # the next process would lock another one.
            if taken is not Taken.NO and leads_to(path, descriptor):
                yield
                return
        finally:
            os.close(descriptor)
        if not said and time.monotonic() - started > _QUIET_SECONDS:
            said = True
            on_wait()
        time.sleep(_POLL_SECONDS)


@contextlib.contextmanager
def try_lock(path: Path) -> Iterator[Taken]:
    """Hold an exclusive lock on the lock file `path`, if nobody else has it."""
    descriptor = _open_lock(path)
    try:
        taken = _try(descriptor)
        yield taken if leads_to(path, descriptor) else Taken.NO
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def try_alone(path: Path) -> Iterator[Taken]:
    """Hold the file or folder at `path` as its only user, if nobody uses it (see `use`)."""
    descriptor = os.open(path, os.O_RDONLY | _NO_LINK)
    try:
        yield _try(descriptor)
    finally:
        os.close(descriptor)


def use(path: Path, descriptor: int) -> bool:
    """Say that this process uses the file at `path`, open as `descriptor`, until it is closed.

    False when it was removed meanwhile. The launcher does the same with a runtime's folder.
    """
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_SH)
    return leads_to(path, descriptor)


def leads_to(path: Path, descriptor: int) -> bool:
    """Whether `path` still names the file that is open as `descriptor`."""
    try:
        named, held = path.lstat(), os.fstat(descriptor)
    except OSError:
        return False
    return (named.st_ino, named.st_dev) == (held.st_ino, held.st_dev)


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | _NO_LINK, 0o600)


def _try(descriptor: int) -> Taken:
    try:
        import fcntl
    except ImportError:  # Windows; replaced there when its runtime is built
        return Taken.UNKNOWN
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return Taken.NO
    except OSError:
        return Taken.UNKNOWN
    return Taken.YES
