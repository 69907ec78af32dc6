"""Files that a person names: opened, written beside their name and renamed, removed."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

_EXECUTABLE = 0o111


@dataclass
class Writing:
    """A file on its way to its name."""

    descriptor: int
    part: Path
    final: Path
    replace: bool

    def finish(self) -> None:
        """Make it durable and name it. Raises OSError."""
        os.fsync(self.descriptor)
        if self.replace:
            _check_replaceable(self.final)
            self.part.replace(self.final)
            return
        os.link(self.part, self.final)  # unlike a rename, it never takes another's place
        self.part.unlink()

    def abandon(self) -> None:
        """Leave nothing behind."""
        self.part.unlink(missing_ok=True)


def open_to_read(path: Path) -> int:
    """A descriptor of a regular file. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(code, os.strerror(code), str(path))
    return descriptor


def begin_writing(path: Path, *, replace: bool) -> Writing:
    """A new file beside `path`. Raises OSError."""
    final = path.absolute()
    if not replace and (final.exists() or final.is_symlink()):
        raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    _check_replaceable(final)
    descriptor, part = tempfile.mkstemp(
        prefix=f"{final.name[:64]}.", suffix=".part", dir=final.parent
    )
    mask = os.umask(0)
    os.umask(mask)
    os.fchmod(descriptor, 0o666 & ~mask)
    return Writing(descriptor, Path(part), final, replace)


def _check_replaceable(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(code, os.strerror(code), str(path))


def remove_socket(path: Path, identity: tuple[int, int]) -> None:
    """Remove a Unix socket, if it is still the file that `identity` (device, inode) says."""
    with contextlib.suppress(OSError):
        facts = path.lstat()
        if stat.S_ISSOCK(facts.st_mode) and (facts.st_dev, facts.st_ino) == identity:
            path.unlink()


def refuse_hidden(path: Path) -> None:
    """Raise PermissionError for what a shell, a desktop or a program may run by itself."""
    real = path.parent.resolve() / path.name
    if any(part.startswith(".") for part in real.parts):
        raise PermissionError(
            errno.EPERM, "hidden files and folders are written only with --no-sandbox", str(path)
        )
    with contextlib.suppress(FileNotFoundError):
        if real.lstat().st_mode & _EXECUTABLE and not real.is_dir():
            raise PermissionError(
                errno.EPERM, "a program is replaced only with --no-sandbox", str(path)
            )
