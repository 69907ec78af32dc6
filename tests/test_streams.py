from __future__ import annotations

import os

import pytest

from runtime_stub import streams


def test_null_reads_as_empty() -> None:
    descriptor = streams.open_null()
    assert os.read(descriptor, 10) == b""
    assert os.write(descriptor, b"gone") == 4
    os.close(descriptor)


def test_null_in_a_root_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "devnull", "/nowhere/null")
    descriptor = streams.open_null()
    assert os.read(descriptor, 10) == b""
    os.close(descriptor)


def test_streams_that_are_there_stay() -> None:
    import sys

    before = (sys.stdin, sys.stdout, sys.stderr)
    streams.open_missing_streams()
    assert (sys.stdin, sys.stdout, sys.stderr) == before
