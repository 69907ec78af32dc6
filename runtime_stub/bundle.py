"""The on-disk format of packs and stubs: the one definition that writer and reader share.

    offset 0      launcher              native executable
    64 KiB align  entry "runtime"       zstd stream of an archive (see archive.py)
    64 KiB align  entry "model"         raw GGUF, or zstd frames
    64 KiB align  further entries       chunk tables last
    64 KiB align  manifest              UTF-8 JSON
                  footer                FOOTER_SIZE bytes, the end of the pack

A code signature may follow the footer, so readers look for it backwards from the end of the
file. Everything is covered by a hash the footer leads to, the launcher included; bytes
between the parts are zero. All binary integers are little endian, all offsets absolute
and 64 bits wide.
"""

from __future__ import annotations

import hashlib
import os
import struct
import threading
from dataclasses import dataclass, field
from pathlib import Path

from runtime_stub import manifest as manifest_format
from runtime_stub.errors import DamagedError, FormatError, InputError, UnsupportedError
from runtime_stub.manifest import Entry, Manifest

FORMAT_VERSION = 1
ALIGNMENT = 64 * 1024
FOOTER_SIZE = 256
FOOTER_WINDOW = 1024 * 1024
"""How far before the end of the file a footer may end: room for a code signature."""
MAX_RUNTIME_SIZE = 1 << 50
MAX_MANIFEST = 64 * 1024 * 1024
MAGIC = bytes([0x89]) + b"satchel pack" + bytes([0x0D, 0x0A, 0x1A])

FOOTER_LAYOUT: tuple[tuple[str, str, str], ...] = (
    ("magic", "16s", "identifies the footer"),
    ("version", "I", "format version"),
    ("footer_size", "I", "length of this footer"),
    ("pack_size", "Q", "offset just past this footer; what follows is a code signature"),
    ("manifest_offset", "Q", "where the manifest starts"),
    ("manifest_length", "Q", "its length"),
    ("manifest_sha256", "32s", "its SHA-256"),
    ("runtime_offset", "Q", "where the runtime's zstd stream starts"),
    ("runtime_length", "Q", "its stored length"),
    ("runtime_size", "Q", "bytes its files need on disk once extracted"),
    ("runtime_sha256", "32s", "SHA-256 of the stored stream; names its folder in the cache"),
    ("launcher_length", "Q", "length of the launcher at offset 0"),
    ("reserved", "80s", "zero"),
    ("footer_sha256", "32s", "SHA-256 of the footer up to here"),
)
"""Name, struct code and meaning of each field, in order. docs/format.md shows this table."""

_FOOTER = struct.Struct("<" + "".join(code for _, code, _ in FOOTER_LAYOUT))
_CHECKED = FOOTER_SIZE - 32
assert _FOOTER.size == FOOTER_SIZE  # noqa: S101  (a layout mistake must not survive import)

CHUNK_SIZE = 4 * 1024 * 1024
MAX_CHUNK_SIZE = 64 * 1024 * 1024
"""Chunks larger than this, stored or decoded, are refused: reading one takes bounded memory."""
CHUNK_LAYOUT: tuple[tuple[str, str, str], ...] = (
    ("offset", "Q", "where the stored chunk starts, from the start of its entry"),
    ("length", "Q", "its stored length"),
    ("size", "Q", "its length once decoded"),
    ("stored_sha256", "32s", "SHA-256 as stored"),
    ("sha256", "32s", "SHA-256 once decoded"),
)
"""One row of a chunk table; a table is such rows and nothing else."""

_CHUNK = struct.Struct("<" + "".join(code for _, code, _ in CHUNK_LAYOUT))
CHUNK_ROW_SIZE = _CHUNK.size


@dataclass(frozen=True)
class Footer:
    """The fixed-size record that ends a pack; enough to start it without parsing JSON."""

    pack_size: int
    manifest_offset: int
    manifest_length: int
    manifest_sha256: bytes
    runtime_offset: int
    runtime_length: int
    runtime_size: int
    runtime_sha256: bytes
    launcher_length: int

    def pack(self) -> bytes:
        """The footer's FOOTER_SIZE bytes."""
        values = {name: getattr(self, name, None) for name, _, _ in FOOTER_LAYOUT}
        values |= {
            "magic": MAGIC,
            "version": FORMAT_VERSION,
            "footer_size": FOOTER_SIZE,
            "reserved": b"",
            "footer_sha256": b"",
        }
        head = _FOOTER.pack(*values.values())[:_CHECKED]
        return head + hashlib.sha256(head).digest()

    def check_within(self, end: int) -> None:
        """Raise DamagedError unless all parts lie between the launcher and `end`, as the
        launcher does: both must take the same footer for the pack's."""
        for offset, length in (
            (self.runtime_offset, self.runtime_length),
            (self.manifest_offset, self.manifest_length),
        ):
            if not self.launcher_length <= offset <= offset + length <= end:
                raise DamagedError("the footer points outside the file", "Copy the file again")
        if not self.runtime_length or self.runtime_size > MAX_RUNTIME_SIZE:
            raise DamagedError("the footer describes no runtime", "Copy the file again")

    @staticmethod
    def unpack(data: bytes) -> Footer:
        """Parse a footer. Raises DamagedError, UnsupportedError or FormatError."""
        if len(data) != FOOTER_SIZE or data[: len(MAGIC)] != MAGIC:
            raise FormatError("no footer here")
        values = dict(
            zip((name for name, _, _ in FOOTER_LAYOUT), _FOOTER.unpack(data), strict=True)
        )
        if values["version"] != FORMAT_VERSION:
            raise UnsupportedError(
                f"the format has version {values['version']}, {FORMAT_VERSION} is known here",
                "Use a newer satchel",
            )
        if hashlib.sha256(data[:_CHECKED]).digest() != values["footer_sha256"]:
            raise DamagedError("the footer is damaged", "Copy the file again")
        if any(values["reserved"]) or values["footer_size"] != FOOTER_SIZE:
            raise FormatError("the footer uses fields this version does not know")
        return Footer(**{name: values[name] for name in Footer.__dataclass_fields__})


@dataclass(frozen=True)
class Chunk:
    """One independently stored and hashed piece of an entry."""

    offset: int
    length: int
    size: int
    stored_sha256: bytes
    sha256: bytes

    def pack(self) -> bytes:
        return _CHUNK.pack(self.offset, self.length, self.size, self.stored_sha256, self.sha256)


def unpack_chunks(data: bytes, entry: Entry) -> tuple[Chunk, ...]:
    """Parse the chunk table of `entry`; raises FormatError unless it covers it exactly."""
    if len(data) % CHUNK_ROW_SIZE:
        raise FormatError(f"the chunk table of {entry.name!r} is cut short")
    chunks = tuple(Chunk(*row) for row in _CHUNK.iter_unpack(data))
    stored = size = 0
    for chunk in chunks:
        if chunk.offset != stored or not 0 < chunk.size <= entry.chunk_size:
            raise FormatError(f"the chunk table of {entry.name!r} has a gap or an overlap")
        if max(chunk.size, chunk.length) > MAX_CHUNK_SIZE:
            raise FormatError(f"the chunk table of {entry.name!r} has a chunk that is too large")
        stored += chunk.length
        size += chunk.size
    if (stored, size) != (entry.length, entry.size):
        raise FormatError(f"the chunk table of {entry.name!r} does not cover it")
    return chunks


_seek_lock = threading.Lock()


def read_at(descriptor: int, offset: int, length: int) -> bytes:
    """Read `length` bytes at `offset`, fewer only at the end of the file.

    Leaves the descriptor's position alone where the platform can; threads may share it.
    """
    parts: list[bytes] = []
    while length > 0:
        if hasattr(os, "pread"):
            data = os.pread(descriptor, length, offset)
        else:
            with _seek_lock:
                os.lseek(descriptor, offset, os.SEEK_SET)
                data = os.read(descriptor, length)
        if not data:
            break
        parts.append(data)
        offset += len(data)
        length -= len(data)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def find_footer(descriptor: int) -> tuple[Footer, int]:
    """The footer and its offset, searched backwards from the end of the file.

    Raises FormatError when there is none, DamagedError when there is one that is damaged.
    """
    size = os.fstat(descriptor).st_size
    window = min(size, FOOTER_SIZE + FOOTER_WINDOW)
    tail = read_at(descriptor, size - window, window)
    found: DamagedError | FormatError | UnsupportedError | None = None
    position = tail.rfind(MAGIC, 0, max(0, window - FOOTER_SIZE + len(MAGIC)))
    while position >= 0:
        offset = size - window + position
        try:
            footer = Footer.unpack(tail[position : position + FOOTER_SIZE])
            if footer.pack_size == offset + FOOTER_SIZE:
                footer.check_within(offset)
                return footer, offset
        except (DamagedError, FormatError, UnsupportedError) as error:
            found = found or error
        position = tail.rfind(MAGIC, 0, position)
    if found is not None:
        raise found
    raise FormatError("it has no Satchel footer", "It is not a pack, or it was cut short")


@dataclass(frozen=True)
class Bundle:
    """An open pack or stub as its reader sees it. The descriptor belongs to the caller."""

    descriptor: int
    path: Path
    footer: Footer
    manifest: Manifest
    _sidecars: dict[str, int] = field(default_factory=dict, compare=False, repr=False)

    def entry(self, name: str) -> Entry:
        """The entry called `name`; raises FormatError when there is none."""
        for entry in self.manifest.entries:
            if entry.name == name:
                return entry
        raise FormatError(f"{self.path.name} holds no entry {name!r}")

    def of_kind(self, kind: str) -> tuple[Entry, ...]:
        """All entries of one kind, in the manifest's order."""
        return tuple(entry for entry in self.manifest.entries if entry.kind == kind)

    def descriptor_of(self, entry: Entry) -> int:
        """The open file that `entry` lies in: the pack's own, or its sidecar's."""
        if entry.file is None:
            return self.descriptor
        if entry.file not in self._sidecars:
            self._sidecars[entry.file] = self._open_sidecar(entry.file)
        return self._sidecars[entry.file]

    def _open_sidecar(self, sha256: str) -> int:
        path = self.path.parent / sidecar_name(sha256)
        try:
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except OSError as error:
            raise InputError(
                f"{self.path.name} needs {path.name} beside it: {error.strerror}",
                "Copy both files together",
            ) from None
        needed = max(e.offset + e.length for e in self.manifest.entries if e.file == sha256)
        if os.fstat(descriptor).st_size < needed:
            os.close(descriptor)
            raise DamagedError(f"{path.name} is cut short", "Copy it again")
        return descriptor

    def read(self, entry: Entry, offset: int = 0, length: int | None = None) -> bytes:
        """Stored bytes of `entry` from `offset` (relative to it)."""
        wanted = entry.length - offset if length is None else min(length, entry.length - offset)
        descriptor = self.descriptor_of(entry)
        try:
            data = read_at(descriptor, entry.offset + offset, wanted)
        except OSError as error:
            raise InputError(f"{self.path.name} can't be read: {error.strerror}") from None
        if len(data) != wanted:
            raise DamagedError(f"{self.path.name} is cut short inside {entry.name!r}")
        return data

    def chunks(self, entry: Entry) -> tuple[Chunk, ...]:
        """The chunk table of `entry`, checked against its own hash."""
        if entry.table is None:
            raise FormatError(f"{entry.name!r} has no chunk table")
        table = self.entry(entry.table)
        data = self.read(table)
        if hashlib.sha256(data).hexdigest() != table.sha256:
            raise DamagedError(f"{table.name!r} is damaged", "Copy the file again")
        return unpack_chunks(data, entry)


def sidecar_name(sha256: str) -> str:
    """File name of the sidecar whose SHA-256 is `sha256` (hexadecimal)."""
    return f"{sha256}.satchel"


def read_bundle(descriptor: int, path: Path) -> Bundle:
    """Read footer and manifest of an open pack or stub; checks the manifest's hash.

    `path` is for messages and for finding sidecars. Raises FormatError, DamagedError or
    UnsupportedError.
    """
    footer, _ = find_footer(descriptor)
    if footer.manifest_length > MAX_MANIFEST:
        raise FormatError("the manifest is too long")
    data = read_at(descriptor, footer.manifest_offset, footer.manifest_length)
    if hashlib.sha256(data).digest() != footer.manifest_sha256:
        raise DamagedError("the manifest is damaged", "Copy the file again")
    manifest = manifest_format.parse(data)
    for entry in manifest.entries:
        if entry.file is None and entry.offset + entry.length > footer.manifest_offset:
            raise FormatError(f"entry {entry.name!r} lies outside the file")
    return Bundle(descriptor=descriptor, path=path, footer=footer, manifest=manifest)


def align(offset: int) -> int:
    """`offset` rounded up to where an entry may start."""
    return -(-offset // ALIGNMENT) * ALIGNMENT
