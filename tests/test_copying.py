from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import small_packs as s

from packer.copying import Piece, copy_piece, read_piece
from runtime_stub.errors import InputError

DATA = s.noise(100_000)


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Piece]:
    path = tmp_path / "source"
    path.write_bytes(DATA)
    descriptor = os.open(path, os.O_RDONLY)
    yield Piece(90_000, descriptor, 5_000, path=path)
    os.close(descriptor)


@pytest.fixture
def target(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


def no_kernel(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """Make the kernel refuse to copy, in one of the ways in which it does."""

    def answer(*_: object) -> int:
        if way == "nothing":
            return 0
        raise OSError(int(way), os.strerror(int(way)))

    if way == "missing":
        monkeypatch.delattr(os, "copy_file_range", raising=False)
    else:
        monkeypatch.setattr(os, "copy_file_range", answer, raising=False)


@pytest.mark.parametrize("way", ["kernel", "missing", "nothing", "18", "22", "95"])
def test_copy(source: Piece, target: int, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    if way != "kernel":
        no_kernel(monkeypatch, way)
    counts: list[int] = []
    copy_piece(source, target, 123, counts.append)
    assert os.pread(target, 200_000, 0) == bytes(123) + DATA[5_000:95_000]
    assert sum(counts) == source.length


def test_kernel_copies_in_parts(
    source: Piece, target: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may stop early, and then refuse: the rest is read and written."""
    calls: list[int] = []

    def some(inside: int, outside: int, count: int, offset: int, position: int) -> int:
        calls.append(count)
        if len(calls) > 3:
            raise OSError(18, "Invalid cross-device link")
        return os.pwrite(outside, os.pread(inside, min(count, 1000), offset), position)

    monkeypatch.setattr(os, "copy_file_range", some, raising=False)
    copy_piece(source, target, 0, s.nothing)
    assert os.pread(target, 200_000, 0) == DATA[5_000:95_000]
    assert len(calls) == 4


def test_literal(target: int) -> None:
    counts: list[int] = []
    copy_piece(Piece(5, literal=b"hello"), target, 3, counts.append)
    assert os.pread(target, 100, 0) == b"\0\0\0hello"
    assert counts == [5]


@pytest.mark.parametrize("way", ["kernel", "missing"])
def test_source_became_shorter(
    source: Piece, target: int, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    if way != "kernel":
        no_kernel(monkeypatch, way)
    os.truncate(source.path, 50_000)
    with pytest.raises(InputError, match="source became shorter while it was read"):
        copy_piece(source, target, 0, s.nothing)


@pytest.mark.parametrize("way", ["28", "5"])
def test_errors_of_the_disk(
    source: Piece, target: int, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    no_kernel(monkeypatch, way)
    with pytest.raises(OSError, match=os.strerror(int(way))):
        copy_piece(source, target, 0, s.nothing)


def test_short_writes(source: Piece, target: int, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    no_kernel(monkeypatch, "missing")
    monkeypatch.setattr(os, "write", lambda file, data: write(file, bytes(data[:30_000])))
    copy_piece(source, target, 0, s.nothing)
    assert os.pread(target, 200_000, 0) == DATA[5_000:95_000]


def test_read_piece(source: Piece) -> None:
    assert read_piece(source, 10, 20) == DATA[5_010:5_030]
    assert read_piece(Piece(5, literal=b"hello"), 1, 3) == b"ell"
    with pytest.raises(InputError, match="became shorter"):
        read_piece(source, 94_990, 20)
