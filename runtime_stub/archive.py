"""The runtime's archive: what the launcher unpacks on the first start.

Inside its zstd stream an archive is an index, then the files' bytes in the index's order
with nothing between them:

    8 bytes   magic "satchelA"
    u32       number of files
    u32       length of all records that follow, in bytes
    per file  u64 size, u16 mode (permission bits), u16 path length, path (UTF-8)
    ...       contents, one after the other

All integers are little endian. Paths are relative, use "/", are sorted by their bytes, and
hold no empty, "." or ".." part; only regular files are kept, so there is nothing to link to.
Folders exist because files lie in them. Knowing every path and size before the first byte
of content lets the reader refuse a bad archive before it writes anything.

The index is also what the launcher leaves in the extracted folder to check it by.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from runtime_stub.errors import FormatError

MAGIC = b"satchelA"
MAX_FILES = 20_000
MAX_PATH = 1024
INDEX_FILE = ".satchel-index"
"""Name, in an extracted folder, of the copy of the index that marks it complete."""

_HEAD = struct.Struct("<8sII")
_RECORD = struct.Struct("<QHH")


@dataclass(frozen=True)
class Member:
    """One file of the archive."""

    path: str
    size: int
    mode: int


def check_path(path: str) -> None:
    """Raise FormatError unless `path` stays inside the folder it is extracted to."""
    parts = path.split("/")
    raw = path.encode("utf-8", "surrogatepass")
    if (
        not path
        or len(raw) > MAX_PATH
        or "\\" in path
        or "\0" in path
        or any(part in ("", ".", "..") for part in parts)
        or path == INDEX_FILE
    ):
        raise FormatError(f"the archive holds an unsafe path: {path!r}")


def pack_index(members: Sequence[Member]) -> bytes:
    """Serialise the index of `members`, which must be sorted by path bytes and unique."""
    if len(members) > MAX_FILES:
        raise FormatError(f"an archive holds at most {MAX_FILES:,} files, not {len(members):,}")
    records = bytearray()
    previous = b""
    for member in members:
        check_path(member.path)
        raw = member.path.encode()
        if raw <= previous:
            raise FormatError(f"archive members are not sorted: {member.path!r}")
        previous = raw
        records += _RECORD.pack(member.size, member.mode, len(raw)) + raw
    return _HEAD.pack(MAGIC, len(members), len(records)) + bytes(records)


def index_length(head: bytes) -> int:
    """Length in bytes of the whole index, from its first 16 bytes."""
    magic, count, length = _HEAD.unpack_from(head)
    if magic != MAGIC or count > MAX_FILES or length > MAX_FILES * (_RECORD.size + MAX_PATH):
        raise FormatError("the runtime is not an archive this version understands")
    return _HEAD.size + int(length)


def unpack_index(data: bytes) -> tuple[Member, ...]:
    """Parse an index; raises FormatError for anything `pack_index` would not have made."""
    if len(data) < _HEAD.size or len(data) != index_length(data):
        raise FormatError("the archive's index is cut short")
    members = tuple(_records(data))
    if len(members) != _HEAD.unpack_from(data)[1]:
        raise FormatError("the archive's index counts its files wrongly")
    if pack_index(members) != data:
        raise FormatError("the archive's index is not in canonical form")
    return members


def _records(data: bytes) -> Iterator[Member]:
    position = _HEAD.size
    while position < len(data):
        if position + _RECORD.size > len(data):
            raise FormatError("the archive's index is cut short")
        size, mode, length = _RECORD.unpack_from(data, position)
        position += _RECORD.size
        raw = data[position : position + length]
        if len(raw) != length:
            raise FormatError("the archive's index is cut short")
        try:
            path = raw.decode()
        except UnicodeDecodeError:
            raise FormatError("the archive holds a path that is not UTF-8") from None
        yield Member(path=path, size=size, mode=mode)
        position += length
