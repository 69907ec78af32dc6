"""Whether a cache folder is ours alone: what lies in it is executed and believed.

The rules are the launcher's (see "Trust" in launcher/cache.c).
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

_MAX_LINKS = 40
_OVERFLOW_USER = 65534


def check_folder(folder: Path, *, writing: bool) -> None:
    """Raise PermissionError unless `folder` is a real folder that others can't change."""
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode):
        raise PermissionError(0, "it is not a folder, or a symbolic link")
    if hasattr(os, "geteuid"):
        if facts.st_uid != os.geteuid() if writing else not owner_trusted(facts):
            raise PermissionError(0, "it belongs to another user")
        if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError(0, "other users may write to it")
    if writing and not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(0, "it is not writable")


def check_way(root: Path, *, create: bool = False) -> None:
    """Raise PermissionError where another user could swap what leads to `root`, as the
    launcher does: links must be ours or root's, folders too, or closed to others, or sticky.

    With `create`, folders that are missing are made, each below one that was found sound.
    """
    root = root.absolute()
    here, rest = Path(root.anchor), list(root.parts[1:])
    links = 0
    while len(rest) > 1:
        step = here / rest.pop(0)
        if create and not os.path.lexists(step):
            step.mkdir(mode=0o700, exist_ok=True)
        facts = step.lstat()
        _check_step(step, facts)
        if stat.S_ISLNK(facts.st_mode):
            links += 1
            if links > _MAX_LINKS:
                raise PermissionError(0, f"{step} is a symbolic link that leads nowhere")
            target = Path(step.readlink())
            rest[:0] = target.parts[1:] if target.is_absolute() else target.parts
            here = Path(target.anchor) if target.is_absolute() else here
        else:
            here = step


def _check_step(step: Path, facts: os.stat_result) -> None:
    if not hasattr(os, "geteuid"):
        return
    if not (owner_trusted(facts) or _is_unmapped_root(facts.st_uid)):
        raise PermissionError(0, f"{step} belongs to another user")
    if not stat.S_ISLNK(facts.st_mode) and (
        facts.st_mode & (stat.S_IWOTH | stat.S_ISVTX) == stat.S_IWOTH
    ):
        raise PermissionError(0, f"{step} can be changed by every user")


def owner_trusted(facts: os.stat_result) -> bool:
    """Whether a file is ours or root's."""
    return not hasattr(os, "geteuid") or facts.st_uid in (os.geteuid(), 0)


def _is_unmapped_root(owner: int) -> bool:
    """Whether `owner` is how root shows in a user namespace that does not map it."""
    if owner != _OVERFLOW_USER:
        return False
    try:
        count = int(Path("/proc/self/uid_map").read_text(encoding="ascii").split()[2])
    except (OSError, IndexError, ValueError):
        return False
    return count < 2**32 - 1
