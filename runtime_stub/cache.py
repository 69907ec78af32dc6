"""The cache: where extracted entries live.

    <root>/                       ours alone: our owner, nobody else may write
      runtimes/<sha256>/          a complete runtime, made by the launcher
      runtimes/<sha256>.lock      its lock; its time says when it was last used
      models/<sha256>.gguf        a complete model
      models/<sha256>.part        one being extracted: whole verified chunks, then a rest
      models/<sha256>.lock        held while extracting

A name without ".part" is only ever given to complete, synced files, by renaming. Extracted
files carry the fixed time COMPLETE_TIME, so that any later write to them shows.
The launcher knows the same layout and the same candidates for the root.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from runtime_stub.environment import CACHE_VARIABLE
from runtime_stub.errors import CacheError, OutputError, SpaceError

COMPLETE_TIME = 946_684_800
"""Modification time of extracted files, seconds since 1970: the first second of 2000."""

_SPACE_MARGIN = 16 << 20
_MAX_LINKS = 40
_OVERFLOW_USER = 65534


@dataclass(frozen=True)
class CacheItem:
    """One extracted runtime or model, complete or not."""

    root: Path
    kind: str
    """One of "runtime", "model" or "partial"."""
    name: str
    size: int
    """Bytes on disk."""
    last_used: float
    """Seconds since 1970."""
    path: Path


def candidates(pack: Path) -> list[Path]:
    """Every folder the cache may be in, best first. An explicit choice is the only one."""
    explicit = os.environ.get(CACHE_VARIABLE)
    if explicit:
        return [Path(explicit).absolute()]
    temporary = Path(os.environ.get("TMPDIR") or "/tmp")  # noqa: S108  (checked before use)
    if os.name == "nt":
        temporary = Path(tempfile.gettempdir())
    user = str(os.getuid()) if hasattr(os, "getuid") else "user"
    return [
        Path(platformdirs.user_cache_dir("satchel", appauthor=False)),
        pack.parent / ".satchel-cache",
        temporary / f"satchel-{user}",
    ]


def find_model(roots: list[Path], sha256: str, size: int) -> Path | None:
    """A complete model in any of the roots, judged by owner, size and time."""
    for root in roots:
        path = root / "models" / f"{sha256}.gguf"
        with contextlib.suppress(OSError):
            _check_way(root)
            _check_folder(root, writing=False)
            _check_folder(path.parent, writing=False)
            facts = path.lstat()
            if (
                stat.S_ISREG(facts.st_mode)
                and facts.st_size == size
                and int(facts.st_mtime) == COMPLETE_TIME
                and _owner_trusted(facts)
            ):
                return path
    return None


def writable_folder(roots: list[Path], name: str, needed: int, *, part: str = "") -> Path:
    """The folder `name` in the first root that is ours, writable and has `needed` bytes free.

    What a file `part` in it already takes counts as free. It is created, with its root,
    readable by us alone. Raises CacheError or SpaceError.
    """
    problems: list[str] = []
    space: SpaceError | None = None
    for root in roots:
        folder = root / name
        try:
            root.parent.mkdir(parents=True, exist_ok=True)
            _check_way(root)
            # Each by itself: `parents` would leave the root to the umask.
            root.mkdir(mode=0o700, exist_ok=True)
            _check_folder(root, writing=True)
            folder.mkdir(mode=0o700, exist_ok=True)
            _check_folder(folder, writing=True)
        except OSError as error:
            problems.append(f"{root}: {error.strerror or error}")
            continue
        free = shutil.disk_usage(folder).free + _allocated(folder / part)
        if free < needed + _SPACE_MARGIN:
            space = SpaceError(
                f"extracting needs {needed / 1e6:,.0f} MB, {folder} has {free / 1e6:,.0f} MB free",
                f"Free some space, or set {CACHE_VARIABLE} to a folder on another disk",
            )
            continue
        return folder
    if space is not None:
        raise space
    raise CacheError(
        f"no cache folder can be written ({'; '.join(problems)})",
        f"Set {CACHE_VARIABLE} to a folder of your own",
    )


def _check_folder(folder: Path, *, writing: bool) -> None:
    """Raise PermissionError unless `folder` is a real folder that others can't change."""
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode):
        raise PermissionError(0, "it is not a folder, or a symbolic link")
    if hasattr(os, "geteuid"):
        if facts.st_uid != os.geteuid() if writing else not _owner_trusted(facts):
            raise PermissionError(0, "it belongs to another user")
        if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError(0, "other users may write to it")
    if writing and not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(0, "it is not writable")


def _check_way(root: Path) -> None:
    """Raise PermissionError where another user could swap what leads to `root`, as the
    launcher does: links must be ours or root's, folders too, or closed to others, or sticky."""
    if not hasattr(os, "geteuid"):
        return
    root = root.absolute()
    here, rest = Path(root.anchor), list(root.parts[1:])
    links = 0
    while len(rest) > 1:
        step = here / rest.pop(0)
        facts = step.lstat()
        if not (_owner_trusted(facts) or _is_unmapped_root(facts.st_uid)):
            raise PermissionError(0, f"{step} belongs to another user")
        if stat.S_ISLNK(facts.st_mode):
            links += 1
            if links > _MAX_LINKS:
                raise PermissionError(0, f"{step} is a symbolic link that leads nowhere")
            target = Path(step.readlink())
            rest[:0] = target.parts[1:] if target.is_absolute() else target.parts
            here = Path(target.anchor) if target.is_absolute() else here
        elif facts.st_mode & (stat.S_IWOTH | stat.S_ISVTX) == stat.S_IWOTH:
            raise PermissionError(0, f"{step} can be changed by every user")
        else:
            here = step


def _is_unmapped_root(owner: int) -> bool:
    """Whether `owner` is how root shows in a user namespace that does not map it."""
    if owner != _OVERFLOW_USER:
        return False
    try:
        count = int(Path("/proc/self/uid_map").read_text(encoding="ascii").split()[2])
    except (OSError, IndexError, ValueError):
        return False
    return count < 2**32 - 1


def _owner_trusted(facts: os.stat_result) -> bool:
    return not hasattr(os, "geteuid") or facts.st_uid in (os.geteuid(), 0)


@contextlib.contextmanager
def lock(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold an exclusive lock on `path` (created if missing).

    `on_wait` is called once when somebody else has held it for half a second. On a file
    system without locks there is none: unique names and renaming keep things whole there.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
    try:
        _acquire(descriptor, on_wait)
        yield
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, on_wait: Callable[[], None]) -> None:
    try:
        import fcntl
    except ImportError:  # Windows; replaced there when its runtime is built
        return
    started = time.monotonic()
    said = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not said and time.monotonic() - started > 0.5:
                said = True
                on_wait()
            time.sleep(0.02)
        except OSError:
            return
        else:
            return


def finish_file(descriptor: int, part: Path, final: Path) -> None:
    """Make `part` (open as `descriptor`) durable and give it its final name."""
    os.fsync(descriptor)
    os.utime(part, (COMPLETE_TIME, COMPLETE_TIME))
    part.replace(final)
    folder = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def items(roots: list[Path]) -> list[CacheItem]:
    """Everything in the cache, in the order of the roots."""
    return [item for root in roots for item in _items_in(root)]


def _items_in(root: Path) -> Iterator[CacheItem]:
    for folder in ("runtimes", "models"):
        with contextlib.suppress(OSError):
            for path in sorted((root / folder).iterdir()):
                if path.suffix == ".lock":
                    continue
                kind = "runtime" if folder == "runtimes" else "model"
                if path.name.startswith(".work-") or path.suffix == ".part":
                    kind = "partial"
                lock_path = path.with_suffix(".lock")
                used = lock_path if lock_path.exists() else path
                yield CacheItem(root, kind, path.stem, _size(path), used.lstat().st_mtime, path)


def remove(item: CacheItem) -> None:
    """Delete an item and its lock. Raises OutputError when that is not possible."""
    try:
        if item.path.is_dir() and not item.path.is_symlink():
            # Renamed first: whoever looks now finds it whole or not at all.
            doomed = item.path.with_name(f".work-{item.path.name[:16]}-removed-{os.getpid()}")
            item.path.rename(doomed)
            shutil.rmtree(doomed)
        else:
            item.path.unlink()
        item.path.with_suffix(".lock").unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{item.path} can't be removed: {error.strerror}") from None


def mark_used(path: Path) -> None:
    """Note that `path` was used, at most once a day, in its lock file's time."""
    stamp = path.with_suffix(".lock")
    with contextlib.suppress(OSError):
        if time.time() - stamp.stat().st_mtime > 24 * 3600:
            os.utime(stamp)


def _allocated(path: Path) -> int:
    """Bytes that a file takes on the disk; 0 for none."""
    try:
        facts = path.lstat()
    except OSError:
        return 0
    blocks = getattr(facts, "st_blocks", 0) * 512
    return blocks if stat.S_ISREG(facts.st_mode) else 0


def _size(path: Path) -> int:
    if path.is_dir() and not path.is_symlink():
        return sum(_size(child) for child in path.iterdir())
    return path.lstat().st_size
