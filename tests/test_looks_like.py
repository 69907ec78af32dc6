from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packer.looks_like import AGAIN, looks_like


@pytest.mark.parametrize(
    ("start", "what", "hint"),
    [
        (b"PK\x03\x04", "PyTorch", "convert_hf_to_gguf.py"),
        (b"\xef\xbb\xbf<?xml version", "web page", "/resolve/"),
        (b"\n\t{}", "JSON", "/resolve/"),
        (b"\x28\xb5\x2f\xfd", "compressed", "Unpack it"),
        (b"#!/bin/sh", "program", "Name the model"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer", "git lfs pull"),
        (struct.pack("<Q", 10) + b"{", "safetensors", "convert_hf_to_gguf.py"),
        (struct.pack("<Q", 10**9) + b"{", "starts with", "ends in .gguf"),  # a longer header
        (bytes(8), "zeros", AGAIN),
        (b"GGUX", "starts with b'GGUX', not b'GGUF'", "ends in .gguf"),
    ],
)
def test_known(start: bytes, what: str, hint: str) -> None:
    found, advice = looks_like(start, 1000)
    assert what in found
    assert hint in advice


def test_empty() -> None:
    assert looks_like(b"", 0) == ("is empty", AGAIN)


@given(st.binary(max_size=64))
def test_anything_gets_an_answer(start: bytes) -> None:
    what, hint = looks_like(start, len(start))
    assert what.startswith(("is ", "looks like ", "starts with "))
    assert hint
