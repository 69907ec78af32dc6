"""The launcher's readers and Python's accept the same files, and read the same in them."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fuzz_seeds import write_seeds
from hypothesis import given, settings
from hypothesis import strategies as st

from packer.stub import CHECKOUT
from runtime_stub import archive, bundle
from runtime_stub.bundle import FOOTER_SIZE, Footer
from runtime_stub.errors import SatchelError

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("gcc") is None, reason="needs Linux and gcc"
)
SOURCES = CHECKOUT / "runtime_stub" / "launcher"
FOUND = 0
LIMIT = 1 << 20


class LauncherFooter(ctypes.Structure):
    """`struct footer` of format.h."""

    _fields_ = (
        ("version", ctypes.c_uint32),
        ("pack_size", ctypes.c_uint64),
        ("runtime_offset", ctypes.c_uint64),
        ("runtime_length", ctypes.c_uint64),
        ("runtime_size", ctypes.c_uint64),
        ("runtime_sha256", ctypes.c_uint8 * 32),
    )


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The launcher's readers as a library."""
    library = tmp_path_factory.mktemp("library") / "format.so"
    code = [SOURCES / "format.c", SOURCES / "sha256.c"]
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", library, *code], check=True)
    found = ctypes.CDLL(str(library))
    found.find_footer.argtypes = [
        *(ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64, ctypes.c_void_p)
    ]
    found.index_read.argtypes = [
        *(ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64, ctypes.c_void_p)
    ]
    found.index_read.restype = ctypes.c_bool
    return found


def footer_in_python(data: bytes) -> Footer | None:
    descriptor = os.memfd_create("file")
    try:
        os.write(descriptor, data)
        return bundle.find_footer(descriptor)[0]
    except SatchelError:
        return None
    finally:
        os.close(descriptor)


def check_footer(launcher: ctypes.CDLL, data: bytes) -> bool:
    """Whether there is one, for both."""
    theirs = LauncherFooter()
    status = launcher.find_footer(data, len(data), len(data), ctypes.byref(theirs))
    ours = footer_in_python(data)
    assert (status == FOUND) == (ours is not None)
    if ours is not None:
        for name in ("pack_size", "runtime_offset", "runtime_length", "runtime_size"):
            assert getattr(ours, name) == getattr(theirs, name)
        assert ours.runtime_sha256 == bytes(theirs.runtime_sha256)
    return ours is not None


def check_index(launcher: ctypes.CDLL, data: bytes) -> bool:
    """Whether it is sound, for both. The launcher also wants a program to start."""
    try:
        members = archive.unpack_index(data)
    except SatchelError:
        members = ()
    program = any(m.path == "satchel-runtime" and m.mode & 0o111 for m in members)
    ours = program and sum(member.size for member in members) <= LIMIT
    theirs = launcher.index_read(data, len(data), LIMIT, ctypes.create_string_buffer(64))
    assert theirs == ours
    return ours


NUMBERS = st.one_of(
    st.integers(0, 1200), st.sampled_from([2**32, 2**50, 2**50 + 1, 2**63, 2**64 - 256, 2**64 - 1])
)
FIELDS = (
    *("manifest_offset", "manifest_length", "runtime_offset", "runtime_length"),
    *("runtime_size", "launcher_length", "pack_size"),
)


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """Files with a few footers in them, most of them nearly right."""
    data = b""
    for _ in range(draw(st.integers(1, 3))):
        data += bytes(draw(st.integers(0, 300)))
        changes: dict[str, Any] = draw(
            st.dictionaries(st.sampled_from(FIELDS), NUMBERS, max_size=2)
        )
        sound = Footer(len(data) + FOOTER_SIZE, 0, len(data), bytes(32), 0, 1, 1, bytes(32), 0)
        footer = bytearray(replace(sound, **changes).pack())
        if draw(st.booleans()):
            place = draw(st.integers(0, 223))
            footer[place] = draw(st.integers(0, 255))
            if draw(st.booleans()):
                footer[224:] = hashlib.sha256(footer[:224]).digest()
        data += bytes(footer)
    return data + bytes(draw(st.integers(0, 300)))


@settings(max_examples=400, deadline=None)
@given(data=files())
def test_footers(launcher: ctypes.CDLL, data: bytes) -> None:
    check_footer(launcher, data)


def test_a_footer_that_points_outside_is_passed_over_by_both(launcher: ctypes.CDLL) -> None:
    """Else one would start a runtime that the other has not looked at."""
    first = Footer(FOOTER_SIZE + 9, 0, 9, bytes(32), 0, 9, 1, bytes(32), 0)
    second = replace(first, pack_size=2 * FOOTER_SIZE + 9, runtime_offset=2**40)
    data = bytes(9) + first.pack() + second.pack()
    assert check_footer(launcher, data)
    assert footer_in_python(data) == first


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seeds")
    write_seeds(folder)
    return folder


def test_seeds(launcher: ctypes.CDLL, seeds: Path) -> None:
    outcomes = [check_footer(launcher, path.read_bytes()) for path in (seeds / "footer").iterdir()]
    assert True in outcomes
    outcomes = [check_index(launcher, path.read_bytes()) for path in (seeds / "index").iterdir()]
    assert outcomes.count(True) == 1


@settings(max_examples=600, deadline=None)
@given(data=st.data())
def test_indexes(launcher: ctypes.CDLL, seeds: Path, data: st.DataObject) -> None:
    found = sorted((seeds / "index").iterdir())
    index = bytearray(data.draw(st.sampled_from(found)).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        index[data.draw(st.integers(0, len(index) - 1))] = data.draw(
            st.one_of(st.sampled_from(b"\0\1\x7f\x80\xff/.\\"), st.integers(0, 255))
        )
    check_index(launcher, bytes(index))
