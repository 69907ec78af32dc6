"""What lies in the cache, and taking it away when nobody uses it.

Only what carries the cache's own names, in folders that are ours alone, counts as its content:
a person may have chosen a folder where other things lie, too.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from runtime_stub.cache import PROFILES, PROMPTS
from runtime_stub.errors import OutputError
from runtime_stub.locks import Taken, try_alone, try_lock
from runtime_stub.trust import check_folder, check_way

RUNTIME, MODEL, PROMPT, PROFILE = "runtime", "model", "prompt", "profile"
PARTIAL = "partial"
_NAMES: dict[str, dict[str, re.Pattern[str]]] = {
    "runtimes": {
        RUNTIME: re.compile(r"[0-9a-f]{64}"),
        PARTIAL: re.compile(r"\.work-[0-9a-f]{16}-.+"),
    },
    "models": {
        MODEL: re.compile(r"[0-9a-f]{64}\.gguf"),
        PARTIAL: re.compile(r"[0-9a-f]{64}\.part"),
    },
    PROMPTS: {
        PROMPT: re.compile(r"[0-9a-f]{32}-[0-9a-f]{32}\.prompt"),
        PARTIAL: re.compile(r"[0-9a-f]{32}-[0-9a-f]{32}\.prompt\.[0-9]+\.part"),
    },
    PROFILES: {
        PROFILE: re.compile(r"[0-9a-f]{64}\.json"),
        PARTIAL: re.compile(r"\.[0-9a-f]{64}\.json-\d+"),
    },
}


@dataclass(frozen=True)
class CacheItem:
    """One extracted runtime or model, a prompt that a server keeps, or what was measured for a
    model; complete or not."""

    root: Path
    kind: str
    """One of "runtime", "model", "prompt", "profile" or "partial"."""
    name: str
    size: int
    """Bytes on disk."""
    last_used: float
    """Seconds since 1970."""
    path: Path


def items(roots: list[Path]) -> list[CacheItem]:
    """Everything in the caches that can be trusted, in the order of the roots."""
    return [item for root in roots for item in _items_in(root)]


def _items_in(root: Path) -> Iterator[CacheItem]:
    for folder, kinds in _NAMES.items():
        try:
            check_way(root)
            check_folder(root, writing=False)
            check_folder(root / folder, writing=False)
            found = sorted((root / folder).iterdir())
        except OSError:
            continue
        for path in found:
            kind = next((kind for kind, name in kinds.items() if name.fullmatch(path.name)), "")
            if kind:
                # It may be gone again by now.
                with contextlib.suppress(OSError):
                    yield CacheItem(root, kind, path.stem, _size(path), _last_used(path), path)


def prune(roots: list[Path], *, days: float, keep: Collection[str] = ()) -> list[CacheItem]:
    """Remove what nobody has used for `days`, and leave what is in use or named in `keep`.

    Returns what went. What can't be removed stays, without an error.
    """
    before = time.time() - days * 24 * 3600
    gone = []
    for item in items(roots):
        if item.last_used >= before or item.name in keep:
            continue
        with contextlib.suppress(OutputError):
            if remove(item, certain=True):
                gone.append(item)
    return gone


def remove(item: CacheItem, *, certain: bool = False) -> bool:
    """Delete an item and its lock, unless somebody uses it or extracts it; whether it is gone.

    Where the file system has no locks, nobody can know: with `certain` it stays then. Raises
    OutputError when it can't be removed.
    """
    wanted = (Taken.YES,) if certain else (Taken.YES, Taken.UNKNOWN)
    lock = _lock_of(item)
    try:
        with contextlib.ExitStack() as stack:
            if lock is not None and stack.enter_context(try_lock(lock)) not in wanted:
                return False
            if (
                not item.path.is_symlink()
                and stack.enter_context(try_alone(item.path)) not in wanted
            ):
                return False
            _delete(item.path)
            if lock is not None and not any(
                _belongs(other, lock) for other in lock.parent.iterdir()
            ):
                lock.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{item.path} can't be removed: {error.strerror}") from None
    return True


def _lock_of(item: CacheItem) -> Path | None:
    """The lock that is held while `item` is extracted; None if there can't be one."""
    if item.path.parent.name in (PROMPTS, PROFILES):
        return None  # whoever has read one goes on without it
    if not item.path.name.startswith(".work-"):
        return item.path.with_suffix(".lock")
    prefix = item.path.name.split("-")[1]
    return next(item.path.parent.glob(f"{prefix}*.lock"), None)


def _belongs(path: Path, lock: Path) -> bool:
    """Whether `path` is something that `lock` is the lock of."""
    name = path.name.removeprefix(".work-")
    return path != lock and name[:16] == lock.name[:16]


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        # Renamed first: whoever looks now finds it whole or not at all.
        name = path.name.removeprefix(".work-")[:16]
        doomed = path.with_name(f".work-{name}-removed-{os.getpid()}")
        path.rename(doomed)
        shutil.rmtree(doomed)
    else:
        path.unlink()


def _last_used(path: Path) -> float:
    if path.parent.name in (PROMPTS, PROFILES):
        return path.lstat().st_mtime
    try:
        return path.with_suffix(".lock").lstat().st_mtime
    except OSError:
        return path.lstat().st_ctime  # its own time is a fixed one


def _size(path: Path) -> int:
    if path.is_dir() and not path.is_symlink():
        return sum(_size(child) for child in path.iterdir())
    return path.lstat().st_size
