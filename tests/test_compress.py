from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import small_packs as s
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from packer.compress import compressed_chunks, compressed_share
from packer.copying import Piece
from runtime_stub.errors import InputError


@pytest.fixture
def file_piece(tmp_path: Path) -> Iterator[Piece]:
    path = tmp_path / "source"
    path.write_bytes(s.noise(100_000))
    descriptor = os.open(path, os.O_RDONLY)
    yield Piece(100_000, descriptor, path=path)
    os.close(descriptor)


def literals(*parts: bytes) -> list[Piece]:
    return [Piece(len(part), literal=part) for part in parts]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.binary(max_size=40), max_size=6), st.integers(1, 30))
def test_chunks_make_up_the_input(parts: list[bytes], size: int) -> None:
    found = list(compressed_chunks(literals(*parts), size, 1))
    assert b"".join(plain for plain, _ in found) == b"".join(parts)
    assert all(len(plain) == size for plain, _ in found[:-1])
    assert all(0 < len(plain) <= size for plain, _ in found)
    for plain, frame in found:
        assert zstandard.frame_content_size(frame) == len(plain)
        assert zstandard.decompress(frame) == plain


def test_the_same_on_any_number_of_cores(
    file_piece: Piece, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for cores in (1, 3, 64, None):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        found.append(list(compressed_chunks([file_piece], 7_000, 3)))
    assert found[0] == found[1] == found[2] == found[3]


def test_few_chunks_are_in_memory_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading stays a few chunks ahead of whoever takes them."""
    read: list[int] = []

    def count(piece: Piece, offset: int, length: int) -> bytes:
        read.append(offset)
        return bytes(length)

    monkeypatch.setattr("packer.compress.read_piece", count)
    taken = 0
    for _ in compressed_chunks([Piece(100_000, 7)], 1_000, 1):
        taken += 1
        assert len(read) - taken <= 6
    assert taken == 100


def test_errors_of_the_source_come_out(file_piece: Piece) -> None:
    os.truncate(file_piece.path, 50_000)
    with pytest.raises(InputError, match="became shorter"):
        list(compressed_chunks([file_piece], 7_000, 1))


class TestShare:
    def test_noise(self, file_piece: Piece) -> None:
        assert compressed_share([file_piece], 3) == pytest.approx(1, abs=0.01)

    def test_zeros(self) -> None:
        assert compressed_share(literals(bytes(100_000), bytes(5)), 3) < 0.01

    def test_samples_from_everywhere(self, file_piece: Piece) -> None:
        large = Piece(8 << 20, literal=bytes(8 << 20))
        half = Piece(8 << 20, literal=s.noise(1 << 20) * 8)
        assert 0.4 < compressed_share([large, half], 1) < 0.6

    def test_nothing(self) -> None:
        assert compressed_share([], 3) == 1.0
