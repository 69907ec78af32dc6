"""Writes bundles: launcher, aligned entries, chunk tables, manifest, footer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from packer.compress import compressed_chunks
from packer.copying import Piece, copy_piece
from packer.output import OutputFile, check_destination
from runtime_stub import manifest as manifest_format
from runtime_stub.bundle import (
    CHUNK_SIZE,
    FOOTER_SIZE,
    Chunk,
    Footer,
    align,
    read_at,
    sidecar_name,
)
from runtime_stub.manifest import RAW, ZSTD_FRAMES, Entry, Manifest
from runtime_stub.signature import KIND as SIGNATURE
from runtime_stub.signature import signed_message

Progress = Callable[[int], None]
ZSTD_LEVEL = 3
"""For models; higher levels cost minutes and gain next to nothing on weights."""


class BundleWriter:
    """Builds one bundle at `destination`. Use as a context manager; `finish` completes it."""

    def __init__(self, destination: Path, *, force: bool) -> None:
        """Raises OutputError when the destination exists (without `force`) or can't be made."""
        check_destination(destination, force=force)
        self._destination = destination
        self._output = OutputFile(destination)
        self._entries: list[Entry] = []
        self._tables: list[tuple[str, bytes]] = []
        self._features: set[str] = set()
        self._sidecars: list[tuple[OutputFile, str]] = []

    def __enter__(self) -> BundleWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for sidecar, _ in self._sidecars:
            sidecar.abandon()
        self._output.__exit__(kind, error, trace)

    def add_bytes(self, name: str, kind: str, data: bytes, **fields: Any) -> Entry:
        """Add an entry from memory, as it is. The launcher must come first."""
        sha256 = hashlib.sha256(data).hexdigest()
        entry = Entry(
            name=name,
            kind=kind,
            codec=fields.pop("codec", RAW),
            offset=self._start(),
            length=len(data),
            size=fields.pop("size", len(data)),
            sha256=fields.pop("sha256", sha256),
            stored_sha256=sha256,
            **fields,
        )
        self._output.write(data)
        self._entries.append(entry)
        return entry

    def add_raw(
        self, name: str, kind: str, pieces: list[Piece], progress: Progress, **fields: Any
    ) -> Entry:
        """Add an entry stored as it is: copied without passing through memory where the
        system can, then hashed as it was written. `progress` counts every byte twice."""
        self._start()
        return self._add_chunked(*_copy_raw(self._output, name, kind, pieces, progress, fields))

    def add_sidecar(
        self, name: str, kind: str, pieces: list[Piece], progress: Progress, **fields: Any
    ) -> Entry:
        """Like `add_raw`, but in a second file beside the destination, named by its hash.

        It gets its name in `finish`. An equal one that is there already is replaced.
        """
        self._features.add("sidecar")
        output = OutputFile(self._destination.with_name(f"{name}.satchel"))
        self._sidecars.append((output, ""))
        entry, chunks = _copy_raw(output, name, kind, pieces, progress, fields)
        self._sidecars[-1] = (output, sidecar_name(entry.sha256))
        return self._add_chunked(replace(entry, file=entry.sha256), chunks)

    def add_compressed(
        self, name: str, kind: str, pieces: list[Piece], progress: Progress, **fields: Any
    ) -> Entry:
        """Add an entry as independent zstd frames, one per chunk."""
        self._features.add("zstd-frames")
        offset = self._start()
        whole, stored = hashlib.sha256(), hashlib.sha256()
        size = 0
        chunks: list[Chunk] = []
        for data, frame in compressed_chunks(pieces, CHUNK_SIZE, ZSTD_LEVEL):
            whole.update(data)
            stored.update(frame)
            chunks.append(
                Chunk(
                    self._output.position - offset,
                    len(frame),
                    len(data),
                    hashlib.sha256(frame).digest(),
                    hashlib.sha256(data).digest(),
                )
            )
            self._output.write(frame)
            size += len(data)
            progress(2 * len(data))
        entry = Entry(
            name,
            kind,
            ZSTD_FRAMES,
            offset,
            self._output.position - offset,
            size,
            whole.hexdigest(),
            stored.hexdigest(),
            **fields,
        )
        return self._add_chunked(entry, chunks)

    def finish(
        self,
        *,
        stub: dict[str, Any],
        runtime_size: int,
        name: str = "",
        recipe: dict[str, Any] | None = None,
        sign: Callable[[bytes], bytes] | None = None,
    ) -> None:
        """Write tables, manifest and footer, and complete the file as an executable.

        `runtime_size` is what the runtime needs on disk once extracted, in bytes. `sign` gets
        what is to be signed, and returns the content of a signature entry.
        """
        for table, data in self._tables:
            self.add_bytes(table, "table", data)
        manifest = Manifest(
            entries=tuple(self._entries),
            stub=stub,
            name=name,
            recipe=recipe,
            features=tuple(sorted(self._features)),
        )
        if sign is not None:
            signature = sign(signed_message(manifest_format.serialise(manifest)))
            entry = self.add_bytes("signature", SIGNATURE, signature)
            manifest = replace(manifest, entries=(*manifest.entries, entry))
        data = manifest_format.serialise(manifest)
        offset = self._start()
        self._output.write(data)
        launcher = next(entry for entry in self._entries if entry.kind == "launcher")
        runtime = next(entry for entry in self._entries if entry.kind == "runtime")
        footer = Footer(
            pack_size=self._output.position + FOOTER_SIZE,
            manifest_offset=offset,
            manifest_length=len(data),
            manifest_sha256=hashlib.sha256(data).digest(),
            runtime_offset=runtime.offset,
            runtime_length=runtime.length,
            runtime_size=runtime_size,
            runtime_sha256=bytes.fromhex(runtime.stored_sha256),
            launcher_length=launcher.length,
        )
        self._output.write(footer.pack())
        for sidecar, sidecar_file in self._sidecars:
            sidecar.complete(name=sidecar_file)
        self._output.complete(executable=True)

    def _start(self) -> int:
        """Move to where the next part may start; what is skipped stays zero."""
        self._output.position = align(self._output.position)
        return self._output.position

    def _add_chunked(self, entry: Entry, chunks: list[Chunk]) -> Entry:
        table = f"{entry.name}.chunks"
        self._tables.append((table, b"".join(chunk.pack() for chunk in chunks)))
        entry = replace(entry, chunk_size=CHUNK_SIZE, table=table)
        self._entries.append(entry)
        return entry


def _copy_raw(
    output: OutputFile,
    name: str,
    kind: str,
    pieces: list[Piece],
    progress: Progress,
    fields: dict[str, Any],
) -> tuple[Entry, list[Chunk]]:
    """Copy `pieces` to where `output` stands and hash what was written."""
    offset = output.position
    for piece in pieces:
        copy_piece(piece, output.descriptor, output.position, progress)
        output.position += piece.length
    length = output.position - offset
    whole = hashlib.sha256()
    chunks: list[Chunk] = []
    for start in range(0, length, CHUNK_SIZE):
        data = read_at(output.descriptor, offset + start, min(CHUNK_SIZE, length - start))
        whole.update(data)
        digest = hashlib.sha256(data).digest()
        chunks.append(Chunk(start, len(data), len(data), digest, digest))
        progress(len(data))
    sha256 = whole.hexdigest()
    return Entry(name, kind, RAW, offset, length, length, sha256, sha256, **fields), chunks
