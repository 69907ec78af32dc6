from __future__ import annotations

import ctypes
import mmap
import sys
from pathlib import Path

import pytest

from runtime_stub.engine.pages import (
    added,
    common_parts,
    give_back_freed,
    give_back_zeros,
    private_memory,
)

SIZE = 48 << 20
MEGABYTE = 1 << 20


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([], [(0, 8)], [(0, 8)]),
        ([(0, 8)], [(0, 8)], []),
        ([(8, 16)], [(0, 24)], [(0, 8), (16, 24)]),
        ([(0, 8), (16, 24)], [(0, 30)], [(8, 16), (24, 30)]),
        ([(0, 8)], [(4, 20)], [(8, 20)]),
        ([(0, 8)], [(0, 11)], []),  # three megabytes are not worth it
        ([(0, 30)], [(10, 20)], []),
        ([(40, 50)], [(0, 8), (40, 50)], [(0, 8)]),
    ],
)
def test_what_is_new(
    before: list[tuple[int, int]], after: list[tuple[int, int]], expected: list[tuple[int, int]]
) -> None:
    def scaled(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
        return [(start * MEGABYTE, end * MEGABYTE) for start, end in ranges]

    assert added(scaled(before), scaled(after)) == scaled(expected)


def test_maps_are_read(tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.write_text(
        "1000-3000 rw-p 00000000 00:00 0 \n"
        "3000-4000 r--p 00000000 00:00 0 \n"
        "4000-5000 rw-p 00000000 00:00 0                          [heap]\n"
        "5000-6000 rw-p 00000000 fe:00 16                         /a/library.so\n"
        "7000-8000 rw-s 00000000 00:00 0 \n"
        "9000-a000 rw-p 00000000 00:00 0 \n"
    )
    assert private_memory(maps) == [(0x1000, 0x3000), (0x9000, 0xA000)]
    assert private_memory(tmp_path / "nothing") == []


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_zeros_go_and_the_rest_stays() -> None:
    before = private_memory()
    memory = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[:] = bytes(SIZE)
    kept = {5 * MEGABYTE + 7: b"one", 20 * MEGABYTE - 1: b"\1", SIZE - 4: b"last"}
    for place, data in kept.items():
        memory[place : place + len(data)] = data
    view = ctypes.c_char.from_buffer(memory)
    new = added(before, private_memory())
    assert sum(end - start for start, end in new) >= SIZE
    held = resident()
    given = give_back_zeros(new)
    assert SIZE - 6 * MEGABYTE <= given <= sum(end - start for start, end in new)
    assert held - resident() > SIZE - 10 * MEGABYTE
    expected = bytearray(SIZE)
    for place, data in kept.items():
        expected[place : place + len(data)] = data
    assert memory[:] == bytes(expected)
    memory[30 * MEGABYTE] = 9  # and it can be used as before
    assert memory[30 * MEGABYTE] == 9
    del view
    memory.close()


def test_freed_memory_is_given_back_at_any_time() -> None:
    pieces = [bytearray(50_000) for _ in range(200)]
    del pieces[::2]
    give_back_freed()
    assert all(not any(piece) for piece in pieces)


@pytest.mark.parametrize(
    ("some", "others", "expected"),
    [
        ([(0, 8)], [(2, 4), (6, 9)], [(2, 4), (6, 8)]),
        ([(0, 2), (4, 6)], [(1, 5)], [(1, 2), (4, 5)]),
        ([(0, 2)], [(2, 4)], []),
    ],
)
def test_what_lies_in_both(
    some: list[tuple[int, int]], others: list[tuple[int, int]], expected: list[tuple[int, int]]
) -> None:
    assert common_parts(some, others) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="only there memory is given back")
def test_memory_that_is_gone_is_left_alone() -> None:
    """What lay there when a context was made may have been freed since: looking would crash."""
    gone = mmap.mmap(-1, SIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(gone))
    gone.close()
    assert give_back_zeros([(address, address + SIZE)]) == 0
