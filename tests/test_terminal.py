from __future__ import annotations

import io
import os
import pty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import pytest

from runtime_stub.chat.terminal import look, size_of


@contextmanager
def terminal_stream() -> Iterator[TextIO]:
    leader, follower = pty.openpty()
    with os.fdopen(follower, "r") as stream, os.fdopen(leader, "rb"):
        yield stream


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, ("utf-8", False)),
        ({"LANG": "C"}, ("utf-8", False)),
        ({"LANG": "C.UTF-8"}, ("utf-8", True)),
        ({"LANG": "de_DE.UTF-8", "LC_ALL": "POSIX"}, ("utf-8", False)),
        ({"LANG": "de_DE.ISO-8859-1"}, ("iso8859-1", False)),
        ({"LANG": "de_DE"}, ("iso8859-1", False)),
        ({"LANG": "de_DE@euro"}, ("iso8859-15", False)),
        ({"LC_CTYPE": "ja_JP.eucJP", "LANG": "C"}, ("euc_jp", False)),
        ({"LC_CTYPE": "UTF-8"}, ("utf-8", True)),
        ({"LANG": "xx_XX.nonsense"}, ("utf-8", False)),
    ],
)
def test_encoding(variables: dict[str, str], expected: tuple[str, bool]) -> None:
    terminal = look({"TERM": "xterm", **variables}, io.StringIO(), io.StringIO())
    assert (terminal.encoding, terminal.unicode) == expected


@pytest.mark.parametrize("name", ["", "dumb", "unknown", "emacs"])
def test_dumb(name: str) -> None:
    with terminal_stream() as stream:
        terminal = look({"TERM": name}, stream, stream)
    assert not terminal.rich
    assert not terminal.colour


@pytest.mark.parametrize("name", ["xterm-256color", "linux", "vt100", "tmux"])
def test_able(name: str) -> None:
    with terminal_stream() as stream:
        assert look({"TERM": name}, stream, stream).rich
        assert not look({"TERM": name}, io.StringIO(), stream).rich
        assert not look({"TERM": name}, stream, io.StringIO()).rich
        assert look({"TERM": name}, stream, stream).colour
        assert not look({"TERM": name, "NO_COLOR": "1"}, stream, stream).colour
        assert look({"TERM": name, "NO_COLOR": ""}, stream, stream).colour


def test_size_of_what_has_none() -> None:
    assert size_of(io.TextIOWrapper(io.BytesIO())) == (80, 24)
    with terminal_stream() as stream:  # as a serial line: 0 by 0
        assert size_of(stream) == (80, 24)
