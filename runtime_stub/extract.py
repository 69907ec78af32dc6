"""Extracting a compressed model to the cache: once, verified chunk by chunk, resumable."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable
from io import RawIOBase
from pathlib import Path

from runtime_stub import cache
from runtime_stub.bundle import Bundle, Chunk
from runtime_stub.errors import CacheError, DamagedError, SpaceError, UnsupportedError
from runtime_stub.locks import lock
from runtime_stub.manifest import CODECS, RAW, ZSTD_FRAMES, Entry

Progress = Callable[[int], None]
"""Called with the number of decoded bytes that have been dealt with since the last call."""

_FULL = {
    errno.ENOSPC: "the disk of {} is full",
    errno.EDQUOT: "what you may use of the disk of {} (your quota) is used up",
}


def decode_chunk(bundle: Bundle, entry: Entry, chunk: Chunk) -> bytes:
    """The decoded bytes of one chunk, checked as stored and as decoded.

    Raises DamagedError naming the entry and the place in the file.
    """
    stored = bundle.read(entry, chunk.offset, chunk.length)
    if hashlib.sha256(stored).digest() != chunk.stored_sha256:
        raise DamagedError(
            f"{entry.name!r} is damaged near byte {entry.offset + chunk.offset:,} of the file",
            "Copy the file again",
        )
    if entry.codec == RAW:
        return stored
    if entry.codec != ZSTD_FRAMES:
        known = ", ".join(sorted(CODECS))
        raise UnsupportedError(
            f"{entry.name!r} is stored as {entry.codec!r}, this version knows {known}",
            "Use a newer satchel",
        )
    import zstandard

    try:
        # Asked first, because the decoder believes a frame that claims to be huge.
        if zstandard.frame_content_size(stored) != chunk.size:
            raise DamagedError(f"{entry.name!r} has a chunk of the wrong size")
        data = zstandard.ZstdDecompressor().decompress(stored, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise DamagedError(f"{entry.name!r} does not decompress: {error}") from None
    if hashlib.sha256(data).digest() != chunk.sha256:
        raise DamagedError(f"{entry.name!r} decompresses to something else than was packed")
    return data


def extract_model(
    bundle: Bundle,
    entry: Entry,
    roots: list[Path],
    *,
    on_start: Callable[[int], Progress],
    on_wait: Callable[[], None],
) -> Path:
    """The path of the extracted model, extracting it into the cache if it is not there.

    `on_start` gets the size in bytes when there is something to do, again for each further root
    when one turns out to be full, and returns the progress function. Raises CacheError,
    SpaceError or DamagedError; what was verified by then stays for the next try.
    """
    found = cache.find_model(roots, entry.sha256, entry.size)
    if found is not None:
        cache.mark_used(found)
        return found
    return _extract_to_first(bundle, entry, roots, on_start, on_wait)


def _extract_to_first(
    bundle: Bundle,
    entry: Entry,
    roots: list[Path],
    on_start: Callable[[int], Progress],
    on_wait: Callable[[], None],
) -> Path:
    """Extract into the first of the roots that takes it."""
    name = f"{entry.sha256}.part"
    folder = cache.writable_folder(roots, "models", entry.size, part=name)
    part, final = folder / name, folder / f"{entry.sha256}.gguf"
    held = final.with_suffix(".lock")
    try:
        with lock(held, on_wait):
            if cache.find_model([folder.parent], entry.sha256, entry.size) is None:
                _extract(bundle, entry, part, final, on_start(entry.size))
    except OSError as error:
        if error.errno not in _FULL:
            raise CacheError(f"{part} can't be written: {error.strerror}") from None
        full = SpaceError(_FULL[error.errno].format(folder), "Free some space and start again")
    else:
        return final
    # A quota shows only when it is reached: the system says that there is room.
    try:
        rest = roots[roots.index(folder.parent) + 1 :]
        path = _extract_to_first(bundle, entry, rest, on_start, on_wait)
    except (CacheError, SpaceError):
        raise full from None
    with contextlib.suppress(OSError), lock(held, on_wait):
        part.unlink()
    return path


def _extract(bundle: Bundle, entry: Entry, part: Path, final: Path, progress: Progress) -> None:
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(part, flags, 0o600)
    try:
        with os.fdopen(descriptor, "r+b", buffering=0, closefd=False) as file:
            chunks = bundle.chunks(entry)
            done = _verified(file.read, chunks, progress)
            file.seek(sum(chunk.size for chunk in chunks[:done]))
            file.truncate()
            for chunk in chunks[done:]:
                _write(file, decode_chunk(bundle, entry, chunk))
                progress(chunk.size)
        cache.finish_file(descriptor, part, final)
    finally:
        os.close(descriptor)


def _write(file: RawIOBase, data: bytes) -> None:
    """All of `data`: an unbuffered file takes less at once when the disk is nearly full."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) or 0 :]


def _verified(
    read: Callable[[int], bytes | None], chunks: tuple[Chunk, ...], progress: Progress
) -> int:
    """How many leading chunks an earlier, interrupted extraction has already written."""
    for index, chunk in enumerate(chunks):
        data = read(chunk.size) or b""
        if len(data) != chunk.size or hashlib.sha256(data).digest() != chunk.sha256:
            return index
        progress(chunk.size)
    return len(chunks)
