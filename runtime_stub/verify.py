"""Checking every byte of a pack or stub against the hashes its footer leads to."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from runtime_stub.bundle import FOOTER_SIZE, FOOTER_WINDOW, Bundle, Chunk, read_at, sidecar_name
from runtime_stub.errors import InputError, SatchelError
from runtime_stub.manifest import RAW, Entry

_BLOCK = 1 << 20
_SIGNING_SYSTEMS = ("windows", "macos")


@dataclass(frozen=True)
class Region:
    """One part of the file and whether it is as it was packed."""

    name: str
    offset: int
    length: int
    problem: str = ""
    """Empty when all is well."""
    remedy: str = "Copy the file again"
    """What to do about it."""
    missing: bool = False
    """Whether it is not there at all: the sidecar that it lies in."""


def verify(bundle: Bundle, progress: Callable[[int], None]) -> list[Region]:
    """Check everything; footer and manifest were checked when the bundle was opened.

    `progress` is called with numbers of bytes as they are dealt with, from several threads.
    """
    regions = [
        check_entry(bundle, entry, progress)
        for entry in sorted(bundle.manifest.entries, key=lambda entry: entry.offset)
    ]
    regions += check_cross_references(bundle)
    footer = bundle.footer
    regions.append(Region("manifest", footer.manifest_offset, footer.manifest_length))
    regions.append(Region("footer", footer.pack_size - FOOTER_SIZE, FOOTER_SIZE))
    regions += _check_padding(bundle)
    return regions


def check_entry(bundle: Bundle, entry: Entry, progress: Callable[[int], None]) -> Region:
    """Check the stored bytes of one entry; `progress` is as for `verify`."""
    try:
        bundle.descriptor_of(entry)
    except InputError as error:
        return Region(
            entry.name, entry.offset, entry.length, error.message, error.hint, missing=True
        )
    except SatchelError as error:
        return Region(entry.name, entry.offset, entry.length, error.message)
    try:
        problem = _check_stored(bundle, entry, progress)
    except SatchelError as error:
        problem = error.message
    return Region(entry.name, entry.offset, entry.length, problem)


def _check_stored(bundle: Bundle, entry: Entry, progress: Callable[[int], None]) -> str:
    if entry.table is None:
        return _check_whole(bundle, entry, progress)
    try:
        chunks = bundle.chunks(entry)
    except SatchelError:
        # The table is a region of its own and named as such; the entry may still be whole.
        return _check_whole(bundle, entry, progress)
    return _check_chunks(bundle, entry, chunks, progress)


def _check_whole(bundle: Bundle, entry: Entry, progress: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    for offset in range(0, entry.length, _BLOCK):
        data = bytearray(bundle.read(entry, offset, _BLOCK))
        for start, length in entry.masked:
            first, last = max(start, offset), min(start + length, offset + len(data))
            if first < last:
                data[first - offset : last - offset] = bytes(last - first)
        digest.update(data)
        progress(len(data))
    return "" if digest.hexdigest() == entry.stored_sha256 else "its bytes were changed"


def _check_chunks(
    bundle: Bundle, entry: Entry, chunks: tuple[Chunk, ...], progress: Callable[[int], None]
) -> str:
    def intact(index: int) -> bool:
        chunk = chunks[index]
        data = bundle.read(entry, chunk.offset, chunk.length)
        progress(len(data))
        return hashlib.sha256(data).digest() == chunk.stored_sha256

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        bad = [index for index, fine in enumerate(pool.map(intact, range(len(chunks)))) if not fine]
    if not bad:
        return ""
    first = entry.offset + chunks[bad[0]].offset
    return f"its bytes were changed near byte {first:,} ({len(bad)} of {len(chunks)} chunks)"


def check_cross_references(bundle: Bundle) -> Iterator[Region]:
    """What the footer repeats for the launcher must be what the manifest says."""
    footer = bundle.footer
    for entry in bundle.of_kind("runtime"):
        if (
            entry.offset != footer.runtime_offset
            or entry.length != footer.runtime_length
            or entry.stored_sha256 != footer.runtime_sha256.hex()
        ):
            yield Region(entry.name, entry.offset, entry.length, "footer and manifest disagree")
    for entry in bundle.of_kind("launcher"):
        if entry.offset != 0 or entry.length != footer.launcher_length or entry.codec != RAW:
            yield Region(entry.name, entry.offset, entry.length, "footer and manifest disagree")


def _check_padding(bundle: Bundle) -> Iterator[Region]:
    """Bytes between the parts must be zero, so that nothing can hide there."""
    footer = bundle.footer
    spans = sorted(
        [(entry.offset, entry.length) for entry in bundle.manifest.entries if entry.file is None]
        + [
            (footer.manifest_offset, footer.manifest_length),
            (footer.pack_size - FOOTER_SIZE, FOOTER_SIZE),
        ]
    )
    position = 0
    for offset, length in spans:
        if offset < position:
            yield Region("layout", offset, position - offset, "two parts overlap")
        elif not _is_zero(bundle.descriptor, position, offset):
            yield Region("padding", position, offset - position, "it is not zero")
        position = max(position, offset + length)
    yield from _check_sidecar_ends(bundle)
    trailing = os.fstat(bundle.descriptor).st_size - footer.pack_size
    if trailing:
        yield _trailing(bundle, trailing)


def _trailing(bundle: Bundle, length: int) -> Region:
    """What follows the footer: on systems that sign programs at their end, a code signature."""
    system = str(bundle.manifest.stub.get("platform", "")).partition("-")[0]
    if system not in _SIGNING_SYSTEMS:
        return Region("appended", bundle.footer.pack_size, length, "it does not belong to the file")
    problem = "" if length <= FOOTER_WINDOW else "it is too long"
    return Region("code signature (not checked)", bundle.footer.pack_size, length, problem)


def _is_zero(descriptor: int, start: int, end: int) -> bool:
    return not any(
        any(read_at(descriptor, position, min(_BLOCK, end - position)))
        for position in range(start, end, _BLOCK)
    )


def _check_sidecar_ends(bundle: Bundle) -> Iterator[Region]:
    """A sidecar ends where its last entry does."""
    lasts: dict[str, Entry] = {}
    for entry in sorted(bundle.manifest.entries, key=lambda entry: entry.offset + entry.length):
        if entry.file is not None:
            lasts[entry.file] = entry
    for name, entry in lasts.items():
        end = entry.offset + entry.length
        try:
            extra = os.fstat(bundle.descriptor_of(entry)).st_size - end
        except SatchelError:
            continue  # said of the entry itself
        if extra:
            yield Region(sidecar_name(name), end, extra, "it is longer than it was")
