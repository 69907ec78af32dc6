"""Files written beside their destination and renamed when they are complete.

A file under the destination's name is therefore always whole: the old one or the new one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
from pathlib import Path
from types import TracebackType

from runtime_stub.errors import OutputError, SpaceError
from runtime_stub.locks import Taken, try_alone, use

_LONGEST_NAME = 240
_PART = re.compile(r"[0-9a-f]{8}\.part")


def output_path(text: str) -> Path:
    """The path of a file to write, looked at as it was typed. Raises OutputError."""
    if not text:
        raise OutputError("the output's name is empty", "Name a file to write")
    if text.endswith(("/", os.sep)) or text.rsplit("/", 1)[-1] in (".", ".."):
        raise OutputError(f"{text} names a folder", "Name a file to write")
    return Path(text)


class OutputFile:
    """A file on its way to `destination`. Leaving the block before `complete` removes it.

    OSErrors in the block come out as OutputError or SpaceError.
    """

    def __init__(self, destination: Path) -> None:
        self._destination = destination
        self._completed = False
        _sweep(destination)
        try:
            self._part, self.descriptor = _new_part(destination)
        except OSError as error:
            raise _explained(error, destination) from None
        self.position = 0
        """Where the next `write` goes."""

    def __enter__(self) -> OutputFile:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.abandon()
        if isinstance(error, OSError):
            raise _explained(error, self._destination) from error

    def abandon(self) -> None:
        """Close the file, and remove it unless it is complete."""
        os.close(self.descriptor)
        if not self._completed:
            self._part.unlink(missing_ok=True)

    def write(self, data: bytes) -> None:
        """Append `data`."""
        view = memoryview(data)
        os.lseek(self.descriptor, self.position, os.SEEK_SET)
        while view:
            written = os.write(self.descriptor, view)
            self.position += written
            view = view[written:]

    def complete(self, *, executable: bool = False, name: str = "") -> None:
        """Make the file durable and give it its name, or another `name` in its folder."""
        if executable and hasattr(os, "fchmod"):
            mode = os.fstat(self.descriptor).st_mode & 0o777
            # Whoever may read it may run it.
            os.fchmod(self.descriptor, mode | (mode & 0o444) >> 2)
        os.fsync(self.descriptor)
        self._part.replace(self._destination.with_name(name) if name else self._destination)
        self._completed = True


def check_destination(destination: Path, *, force: bool) -> None:
    """Raise OutputError unless a file can be made at `destination`."""
    if len(os.fsencode(destination.name)) > _LONGEST_NAME:
        raise OutputError("the output's name is too long", f"Use at most {_LONGEST_NAME} bytes")
    try:
        # A link that leads nowhere is something, too.
        exists, is_folder = os.path.lexists(destination), destination.is_dir()
        is_file, has_folder = destination.is_file(), destination.parent.is_dir()
    except OSError as error:
        raise _explained(error, destination) from None
    if is_folder:
        raise OutputError(f"{destination} is a folder", "Name a file to write")
    if exists and not is_file:
        raise OutputError(f"{destination} is not a plain file", "Name another file to write")
    if exists and not force:
        raise OutputError(f"{destination} exists already", "Use --force to replace it")
    if not has_folder and os.path.lexists(destination.parent):
        raise OutputError(f"{destination.parent} is not a folder", "Name a file in a folder")
    if not has_folder:
        raise OutputError(f"the folder {destination.parent} does not exist", "Make it first")


def require_other(destination: Path, source: Path, what: str) -> None:
    """Raise OutputError when `destination` is the file `source`, which `what` describes."""
    try:
        same = destination.samefile(source)
    except OSError:
        return
    if same:
        raise OutputError(f"the output {destination} is {what}", "Name another file")


def require_space(destination: Path, needed: int) -> None:
    """Raise SpaceError when the disk of `destination` has less than `needed` bytes free."""
    disk = shutil.disk_usage(destination.parent)
    free = disk.free
    if disk.total and free < needed:  # no size at all: it is no disk, or does not say
        raise SpaceError(
            f"{destination} needs {needed / 1e6:,.0f} MB, its disk has {free / 1e6:,.0f} MB free",
            "Free some space, or write to another disk",
        )


def _explained(error: OSError, destination: Path) -> OutputError | SpaceError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SpaceError(
            f"the disk of {destination} is full", "Free some space; nothing was left behind"
        )
    if error.errno == errno.ENOENT and destination.parent.is_dir():
        return OutputError(
            f"{destination.parent} takes no new files", "Write to a folder on a disk"
        )
    return OutputError(f"{destination} can't be written: {error.strerror or error}")


def _new_part(destination: Path) -> tuple[Path, int]:
    """A new file beside `destination`, and its descriptor, which says that it is in use."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    while True:
        part = destination.with_name(f".{destination.name}.{secrets.token_hex(4)}.part")
        descriptor = os.open(part, flags, 0o666)
        if use(part, descriptor):
            return part, descriptor
        os.close(descriptor)  # swept by another process, which came before we could say so


def _sweep(destination: Path) -> None:
    """Remove what earlier processes, killed since, had begun to write to `destination`."""
    beginning = f".{destination.name}."
    with contextlib.suppress(OSError):
        for path in destination.parent.iterdir():
            rest = path.name.removeprefix(beginning)
            if rest != path.name and _PART.fullmatch(rest) and path.is_file():
                with contextlib.suppress(OSError), try_alone(path) as taken:
                    if taken is Taken.YES:
                        path.unlink()
