"""Compression of entries: independent zstd frames, made in parallel, in bounded memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import zstandard

from packer.copying import Piece, read_piece

_SAMPLES = 16
_SAMPLE_SIZE = 256 << 10


def compressed_chunks(
    pieces: list[Piece], chunk_size: int, level: int
) -> Iterator[tuple[bytes, bytes]]:
    """Pairs of (plain chunk, its zstd frame), in order. Frames depend on nothing else, so the
    same input gives the same bytes on any number of cores."""
    workers = min(4, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        pending: deque[tuple[bytes, Future[bytes]]] = deque()
        for data in _chunks(pieces, chunk_size):
            pending.append((data, pool.submit(_frame, data, level)))
            if len(pending) > workers + 1:
                plain, future = pending.popleft()
                yield plain, future.result()
        while pending:
            plain, future = pending.popleft()
            yield plain, future.result()


def compressed_share(pieces: list[Piece], level: int) -> float:
    """Estimate, from samples spread over the input, of compressed to plain size."""
    total = sum(piece.length for piece in pieces)
    plain = packed = 0
    for index in range(_SAMPLES):
        data = _range(pieces, total * index // _SAMPLES, _SAMPLE_SIZE)
        plain += len(data)
        packed += len(_frame(data, level))
    return packed / plain if plain else 1.0


def _frame(data: bytes, level: int) -> bytes:
    return zstandard.ZstdCompressor(level=level, write_content_size=True).compress(data)


def _chunks(pieces: list[Piece], size: int) -> Iterator[bytes]:
    buffer = bytearray()
    for piece in pieces:
        offset = 0
        while offset < piece.length:
            step = min(size - len(buffer), piece.length - offset)
            buffer += read_piece(piece, offset, step)
            offset += step
            if len(buffer) == size:
                yield bytes(buffer)
                buffer.clear()
    if buffer:
        yield bytes(buffer)


def _range(pieces: list[Piece], start: int, length: int) -> bytes:
    found = bytearray()
    for piece in pieces:
        if start < piece.length and len(found) < length:
            step = min(piece.length - start, length - len(found))
            found += read_piece(piece, start, step)
            start = 0
        else:
            start = max(0, start - piece.length)
    return bytes(found)
