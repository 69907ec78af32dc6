"""The cache: where extracted entries live.

    <root>/                       ours alone: our owner, nobody else may write
      runtimes/<sha256>/          a complete runtime, made by the launcher
      runtimes/<sha256>.lock      held while extracting; its time says when it was last used
      models/<sha256>.gguf        a complete model
      models/<sha256>.part        one being extracted: whole verified chunks, then a rest
      models/<sha256>.lock        as for runtimes
      prompts/<text>-<fits>.prompt   what a server has read (engine/prompt_files.py); nobody
                                  else's business, and written only when a person asks for it
      profiles/<sha256>.json      what was measured for a model on this machine (`profiles.py`)

A name without ".part" is only ever given to complete, synced files, by renaming. Extracted
files carry the fixed time COMPLETE_TIME, so that any later write to them shows. Whoever uses a
runtime or model holds a shared lock on its folder or file, so that nobody removes it.
The launcher knows the same layout and the same candidates for the root.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path

import platformdirs

from runtime_stub.environment import CACHE_VARIABLE
from runtime_stub.errors import CacheError, SpaceError
from runtime_stub.trust import check_folder, check_way, owner_trusted

PROMPTS = "prompts"
PROFILES = "profiles"
COMPLETE_TIME = 946_684_800
"""Modification time of extracted files, seconds since 1970: the first second of 2000."""

_SPACE_MARGIN = 16 << 20
_DAY = 24 * 3600


def candidates(pack: Path) -> list[Path]:
    """Every folder the cache may be in, best first. An explicit choice is the only one."""
    explicit = os.environ.get(CACHE_VARIABLE)
    if explicit:
        return [Path(explicit).absolute()]
    temporary = Path(os.environ.get("TMPDIR") or "/tmp")  # noqa: S108  (checked before use)
    if os.name == "nt":
        temporary = Path(tempfile.gettempdir())
    user = str(os.getuid()) if hasattr(os, "getuid") else "user"
    home: list[Path] = []
    with contextlib.suppress(RuntimeError):  # neither HOME nor an entry in /etc/passwd
        home = [Path(platformdirs.user_cache_dir("satchel", appauthor=False))]
    return [
        *home,
        pack.parent / ".satchel-cache",
        temporary / f"satchel-{user}",
    ]


def find_model(roots: list[Path], sha256: str, size: int) -> Path | None:
    """A complete model in any of the roots, judged by owner, size and time."""
    for root in roots:
        path = root / "models" / f"{sha256}.gguf"
        with contextlib.suppress(OSError):
            check_way(root)
            check_folder(root, writing=False)
            check_folder(path.parent, writing=False)
            facts = path.lstat()
            if (
                stat.S_ISREG(facts.st_mode)
                and facts.st_size == size
                and int(facts.st_mtime) == COMPLETE_TIME
                and owner_trusted(facts)
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
            check_way(root, create=True)
            # Each by itself: `parents` would leave the root to the umask.
            root.mkdir(mode=0o700, exist_ok=True)
            check_folder(root, writing=True)
            folder.mkdir(mode=0o700, exist_ok=True)
            check_folder(folder, writing=True)
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


def prompt_folder(roots: list[Path]) -> Path:
    """The folder of the prompts that servers keep, as for `writable_folder`."""
    return writable_folder(roots, PROMPTS, 0)


def finish_file(descriptor: int, part: Path, final: Path) -> None:
    """Make `part` (open as `descriptor`) durable and give it its final name."""
    os.utime(part, (COMPLETE_TIME, COMPLETE_TIME))
    os.fsync(descriptor)
    part.replace(final)
    folder = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def mark_used(path: Path) -> None:
    """Note that `path` was used, at most once a day, in its lock file's time."""
    stamp = path.with_suffix(".lock")
    with contextlib.suppress(OSError):
        # A stamp in the future was set before somebody put the clock right.
        if not 0 <= time.time() - stamp.stat().st_mtime <= _DAY:
            os.utime(stamp)


def _allocated(path: Path) -> int:
    """Bytes that a file takes on the disk; 0 for none."""
    try:
        facts = path.lstat()
    except OSError:
        return 0
    blocks = getattr(facts, "st_blocks", 0) * 512
    return blocks if stat.S_ISREG(facts.st_mode) else 0
