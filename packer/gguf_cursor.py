"""Reading forward through a GGUF header that may say anything."""

from __future__ import annotations

import struct
from typing import BinaryIO, NoReturn

from packer.gguf import MAX_HEADER
from packer.looks_like import AGAIN
from runtime_stub.errors import FormatError

_WINDOW = 4 << 20
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


class Cursor:
    """A place in one header, seen through a window of some MiB."""

    def __init__(self, file: BinaryIO, name: str, base: int, size: int) -> None:
        self._file = file
        self._name = name
        self._base = base
        self._size = size
        self._position = 0
        self._window = b""
        self._window_start = 0

    def _load(self, count: int) -> int:
        """Make `count` bytes at the position available; returns where in the window."""
        at = self._position - self._window_start
        if at + count > len(self._window):
            self._require(count)
            self._window_start, at = self._position, 0
            self._file.seek(self._base + self._position)
            wanted = min(max(count, _WINDOW), self._size - self._position)
            self._window = read_fully(self._file, wanted)
            if len(self._window) < count:  # it has become shorter since
                self._cut_short(count)
        return at

    def _take(self, count: int) -> bytes:
        at = self._load(count)
        self._position += count
        return self._window[at : at + count]

    def _skip(self, count: int) -> None:
        self._require(count)
        self._position += count

    def _require(self, count: int) -> None:
        if self._position + count > self._size:
            self._cut_short(count)
        if self._position + count > MAX_HEADER:
            self._malformed(f"its header is longer than {MAX_HEADER >> 20} MiB")

    def _u32(self) -> int:
        at = self._load(4)
        self._position += 4
        value: int = _U32.unpack_from(self._window, at)[0]
        return value

    def _u64(self) -> int:
        at = self._load(8)
        self._position += 8
        value: int = _U64.unpack_from(self._window, at)[0]
        return value

    def _malformed(self, problem: str) -> NoReturn:
        raise FormatError(f"{self._name} is malformed: {problem}", AGAIN)

    def _cut_short(self, count: int) -> NoReturn:
        raise FormatError(
            f"{self._name} is cut short or damaged: at byte {self._position:,} its header "
            f"needs {count:,} more, but the file has {self._size:,}",
            AGAIN,
        )


def read_fully(file: BinaryIO, count: int) -> bytes:
    """`count` bytes, fewer only at the file's end: unbuffered files may return less at once."""
    data = file.read(count)
    while len(data) < count and (more := file.read(count - len(data))):
        data += more
    return data


def read_at(file: BinaryIO, offset: int, count: int) -> bytes:
    file.seek(offset)
    return read_fully(file, count)
