from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime_stub.archive import (
    INDEX_FILE,
    MAGIC,
    MAX_FILES,
    Member,
    check_path,
    index_length,
    pack_index,
    unpack_index,
)
from runtime_stub.errors import FormatError

MEMBERS = [Member("a/b", 3, 0o644), Member("a/c", 0, 0o755), Member("b", 2**40, 0o600)]
SOUND = pack_index(MEMBERS)

NAMES = st.text(
    st.characters(exclude_characters="/\\\0", exclude_categories=["Cs"]), min_size=1, max_size=8
).filter(lambda name: name not in (".", "..", INDEX_FILE))
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
INDEXES = st.dictionaries(
    PATHS, st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**16 - 1)), max_size=8
).map(
    lambda found: [
        Member(path, size, mode)
        for path, (size, mode) in sorted(found.items(), key=lambda item: item[0].encode())
    ]
)


@settings(deadline=None)
@given(INDEXES)
def test_round_trip(members: list[Member]) -> None:
    data = pack_index(members)
    assert unpack_index(data) == tuple(members)
    assert index_length(data[:16]) == len(data)


def test_empty() -> None:
    assert unpack_index(pack_index([])) == ()


@pytest.mark.parametrize(
    "path",
    [
        *("", "/a", "a/", "a//b", ".", "..", "a/../b", "./a", "a\\b", "a\0b"),
        *(INDEX_FILE, "x" * 1025, "é" * 513),
    ],
)
def test_unsafe_paths(path: str) -> None:
    with pytest.raises(FormatError, match="unsafe path"):
        check_path(path)
    with pytest.raises(FormatError, match="unsafe path"):
        pack_index([Member(path, 1, 0o644)])


def test_paths_that_only_look_unsafe() -> None:
    for path in ("a..b", "...", f"x/{INDEX_FILE}", "x" * 1024):
        check_path(path)


@pytest.mark.parametrize("names", [("b", "a"), ("a", "a")])
def test_order(names: tuple[str, str]) -> None:
    with pytest.raises(FormatError, match="not sorted"):
        pack_index([Member(name, 0, 0) for name in names])


def test_too_many() -> None:
    with pytest.raises(FormatError, match="at most 20,000 files"):
        pack_index([Member("a", 0, 0)] * (MAX_FILES + 1))


def raw(*records: tuple[bytes, int], count: int | None = None, more: int = 0) -> bytes:
    """An index that nobody has checked."""
    packed = b"".join(struct.pack("<QHH", 1, 0, length) + path for path, length in records)
    number = len(records) if count is None else count
    return struct.pack("<8sII", MAGIC, number, len(packed) + more) + packed


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "cut short"),
        (SOUND[:-1], "cut short"),
        (SOUND + b"x", "cut short"),
        (b"satchelB" + SOUND[8:], "not an archive"),
        (raw((b"a", 1), count=2), "counts its files wrongly"),
        (raw((b"a", 1), count=MAX_FILES + 1), "not an archive"),
        (raw((b"a", 1), more=2**32 - 20), "not an archive"),
        (raw((b"a", 9)), "cut short"),
        (raw((b"a" * 8, 1)), "cut short"),
        (raw((b"\xff", 1)), "not UTF-8"),
        (raw((b"\xed\xa0\x80", 3)), "not UTF-8"),
        (raw((b"b", 1), (b"a", 1)), "not sorted"),
        (raw((b"a", 1), (b"a", 1)), "not sorted"),
        (raw((b"../a", 4)), "unsafe path"),
    ],
)
def test_refused(data: bytes, match: str) -> None:
    with pytest.raises(FormatError, match=match):
        unpack_index(data)


@settings(deadline=None)
@given(st.binary(max_size=80), st.booleans(), st.integers(0, 3))
def test_noise(noise: bytes, framed: bool, count: int) -> None:
    data = struct.pack("<8sII", MAGIC, count, len(noise)) + noise if framed else noise
    try:
        members = unpack_index(data)
    except FormatError:
        return
    assert pack_index(members) == data


@settings(deadline=None)
@given(st.integers(0, len(SOUND) - 1), st.integers(0, 255))
def test_changed_byte(position: int, value: int) -> None:
    data = bytearray(SOUND)
    data[position] = value
    try:
        members = unpack_index(bytes(data))
    except FormatError:
        return
    assert pack_index(members) == data
