"""Copying ranges of files: in the kernel, shared where the file system can, in small steps."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from runtime_stub.bundle import read_at
from runtime_stub.errors import InputError

_STEP = 32 << 20
_BUFFER = 4 << 20
_NOT_HERE = (errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF)


@dataclass(frozen=True)
class Piece:
    """A run of bytes to copy: out of an open file, or literal."""

    length: int
    descriptor: int = -1
    offset: int = 0
    literal: bytes = b""
    path: Path = Path()
    """For messages."""


def copy_piece(piece: Piece, target: int, position: int, progress: Callable[[int], None]) -> None:
    """Copy `piece` to `position` of the open file `target`.

    Raises InputError when the source is shorter than it was, OSError when writing fails.
    """
    if piece.descriptor < 0:
        _write_at(target, position, piece.literal)
        progress(piece.length)
        return
    done = 0
    while done < piece.length:
        step = min(_STEP, piece.length - done)
        copied = _copy_in_kernel(piece, piece.offset + done, target, position + done, step)
        if copied is None:
            break
        done += copied
        progress(copied)
    for data in _blocks(piece, done):
        _write_at(target, position + done, data)
        done += len(data)
        progress(len(data))


def read_piece(piece: Piece, offset: int, length: int) -> bytes:
    """Bytes of `piece` from `offset`; raises InputError when the file is cut short."""
    if piece.descriptor < 0:
        return piece.literal[offset : offset + length]
    data = read_at(piece.descriptor, piece.offset + offset, length)
    if len(data) != length:
        raise InputError(f"{piece.path} became shorter while it was read", "Try again")
    return data


def _blocks(piece: Piece, start: int) -> Iterator[bytes]:
    while start < piece.length:
        data = read_piece(piece, start, min(_BUFFER, piece.length - start))
        yield data
        start += len(data)


def _copy_in_kernel(
    piece: Piece, offset: int, target: int, position: int, length: int
) -> int | None:
    """Bytes copied, None where the kernel or the file systems can't."""
    if not hasattr(os, "copy_file_range"):
        return None
    try:
        copied = os.copy_file_range(piece.descriptor, target, length, offset, position)
    except OSError as error:
        if error.errno in _NOT_HERE:
            return None
        raise
    # Nothing: the file became shorter, or is one of those that some kernels can't copy; reading
    # it shows which.
    return copied or None


def _write_at(target: int, position: int, data: bytes) -> None:
    view = memoryview(data)
    os.lseek(target, position, os.SEEK_SET)
    while view:
        view = view[os.write(target, view) :]
