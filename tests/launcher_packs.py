"""Small real packs around a launcher, for its tests: sound ones, and ones damaged on purpose."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, replace
from pathlib import Path

import zstandard

from runtime_stub import archive, bundle, manifest

PROGRAM = b'#!/bin/sh\n[ $# -eq 0 ] && { echo started; exit; }\nexec "$@"\n'
"""A stand-in for the runtime: it runs its arguments, so that tests choose what it does."""

PLAIN_FILES: dict[str, tuple[bytes, int]] = {
    "_internal/base/empty": (b"", 0o644),
    "_internal/base/library.so": (bytes(range(256)) * 3000, 0o755),
    "_internal/data.txt": (b"data\n", 0o644),
    "satchel-runtime": (PROGRAM, 0o755),
}


@dataclass(frozen=True)
class Pack:
    """A pack's parts; `write` joins them."""

    launcher: bytes
    stored: bytes
    """The runtime's zstd stream."""
    runtime_size: int
    sha256: bytes
    """What the footer claims the hash of `stored` to be."""

    def footer(self) -> bundle.Footer:
        described = manifest.serialise(manifest.Manifest(entries=(), stub={}))
        runtime_offset = bundle.align(len(self.launcher))
        manifest_offset = bundle.align(runtime_offset + len(self.stored))
        return bundle.Footer(
            pack_size=manifest_offset + len(described) + bundle.FOOTER_SIZE,
            manifest_offset=manifest_offset,
            manifest_length=len(described),
            manifest_sha256=hashlib.sha256(described).digest(),
            runtime_offset=runtime_offset,
            runtime_length=len(self.stored),
            runtime_size=self.runtime_size,
            runtime_sha256=self.sha256,
            launcher_length=len(self.launcher),
        )

    def content(self) -> bytes:
        footer = self.footer()
        described = manifest.serialise(manifest.Manifest(entries=(), stub={}))
        body = bytearray(footer.manifest_offset)
        body[: len(self.launcher)] = self.launcher
        body[footer.runtime_offset : footer.runtime_offset + len(self.stored)] = self.stored
        return bytes(body) + described + footer.pack()

    def write(self, path: Path) -> Path:
        return write_program(path, self.content())


def write_program(path: Path, content: bytes) -> Path:
    """Write an executable file that replaces any file of that name."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    path.chmod(0o755)
    return path


def stored_pack(launcher: bytes, plain: bytes, runtime_size: int) -> Pack:
    """A pack whose runtime decodes to `plain`, be that an archive or not."""
    stored = zstandard.ZstdCompressor(level=1).compress(plain)
    return Pack(launcher, stored, runtime_size, hashlib.sha256(stored).digest())


def pack_of(launcher: bytes, files: dict[str, tuple[bytes, int]]) -> Pack:
    """A sound pack of `files`: content and mode by path."""
    ordered = sorted(files.items(), key=lambda item: item[0].encode())
    members = [archive.Member(path, len(data), mode) for path, (data, mode) in ordered]
    plain = archive.pack_index(members) + b"".join(data for _, (data, _) in ordered)
    return stored_pack(launcher, plain, sum(member.size for member in members))


def raw_index(records: list[tuple[bytes, int, int]]) -> bytes:
    """An index of (path, size, mode) that nobody has checked."""
    packed = b"".join(
        struct.pack("<QHH", size, mode, len(path)) + path for path, size, mode in records
    )
    return struct.pack("<8sII", archive.MAGIC, len(records), len(packed)) + packed


def with_stored(pack: Pack, stored: bytes) -> Pack:
    """`pack` with another stream, and the hash that belongs to it."""
    return replace(pack, stored=stored, sha256=hashlib.sha256(stored).digest())


def resealed(footer: bytes) -> bytes:
    """A changed footer with the hash that belongs to it."""
    return footer[:-32] + hashlib.sha256(footer[:-32]).digest()


GOOD = (b"satchel-runtime", len(PROGRAM), 0o755)
BAD_INDEXES: dict[str, bytes] = {
    "parent": raw_index([(b"../evil", 0, 0o644), GOOD]),
    "inner parent": raw_index([(b"a/../../evil", 0, 0o644), GOOD]),
    "last parent": raw_index([(b"a/..", 0, 0o644), GOOD]),
    "absolute": raw_index([(b"/tmp/evil", 0, 0o644), GOOD]),
    "dot": raw_index([(b"./evil", 0, 0o644), GOOD]),
    "empty part": raw_index([(b"a//b", 0, 0o644), GOOD]),
    "slash at the end": raw_index([(b"a/", 0, 0o644), GOOD]),
    "empty": raw_index([(b"", 0, 0o644), GOOD]),
    "backslash": raw_index([(b"a\\b", 0, 0o644), GOOD]),
    "zero byte": raw_index([(b"a\0b", 0, 0o644), GOOD]),
    "zero byte at the end": raw_index([(b"a\0", 0, 0o644), GOOD]),
    "not UTF-8": raw_index([(b"\xc0\xaf", 0, 0o644), GOOD]),
    "surrogate": raw_index([(b"\xed\xa0\x80", 0, 0o644), GOOD]),
    "cut UTF-8": raw_index([(b"\xe2\x82", 0, 0o644), GOOD]),
    "duplicate": raw_index([GOOD, GOOD]),
    "unsorted": raw_index([GOOD, (b"a", 0, 0o644)]),
    "index": raw_index([(b".satchel-index", 0, 0o644), GOOD]),
    "too long": raw_index([(b"a" * 1025, 0, 0o644), GOOD]),
    "too large": raw_index([(b"a", 2**64 - 10, 0o644), GOOD]),
    "no program": raw_index([(b"a", len(PROGRAM), 0o755)]),
    "program can't run": raw_index([(b"satchel-runtime", len(PROGRAM), 0o644)]),
    "no files": raw_index([]),
    "count": raw_index([GOOD])[:8] + struct.pack("<I", 2) + raw_index([GOOD])[12:],
    "too many": struct.pack("<8sII", archive.MAGIC, archive.MAX_FILES + 1, 12) + bytes(12),
    "too much": struct.pack("<8sII", archive.MAGIC, 1, 2**32 - 1) + bytes(12),
    "magic": b"satchelB" + raw_index([GOOD])[8:],
    "cut": raw_index([GOOD])[:-3],
}
