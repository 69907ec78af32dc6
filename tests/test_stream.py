from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime_stub.engine.stream import TextStream


def fed(pieces: Sequence[bytes], stop: Sequence[str] = ()) -> list[str]:
    """What comes out for each piece, and at the end."""
    stream = TextStream(stop)
    return [*(stream.feed(piece) for piece in pieces), stream.finish()]


def naive(pieces: Sequence[bytes], stop: Sequence[str]) -> str:
    """The same, from the whole text so far at each step."""
    data = b""
    for piece in pieces:
        data += piece
        text = data.decode("utf-8", "ignore")
        found = [text.find(one) for one in stop if one and one in text]
        if found:
            return text[: min(found)]
    return data.decode("utf-8", "replace")


@pytest.mark.parametrize(
    ("pieces", "stop", "expected"),
    [
        ([], [], [""]),
        ([b"a", b"b"], [], ["a", "b", ""]),
        ([b"\xf0\x9f", b"\x98\x80!"], [], ["", "😀!", ""]),
        ([b"\xf0\x9f"], [], ["", "\ufffd"]),
        ([b"a\xffb"], [], ["a\ufffdb", ""]),
        ([b"one END two"], ["END"], ["one ", ""]),
        ([b"one E", b"N", b"D two", b"three"], ["END"], ["one ", "", "", "", ""]),
        ([b"one E", b"NOT"], ["END"], ["one ", "ENOT", ""]),
        ([b"one E"], ["END"], ["one ", "E"]),
        ([b"EE", b"END"], ["END"], ["E", "E", ""]),
        ([b"ab\xc3", b"\xa9", b"cd"], ["éc"], ["ab", "", "", ""]),
        ([b"x\n", b"\nUser:"], ["\n\nUser:", "zzz"], ["x", "", ""]),
        ([b"abc"], ["", "c"], ["ab", ""]),
        ([b"stop first"], ["first", "stop"], ["", ""]),
    ],
)
def test_pieces(pieces: list[bytes], stop: list[str], expected: list[str]) -> None:
    assert fed(pieces, stop) == expected


def test_stopped() -> None:
    stream = TextStream(["b"])
    states = [stream.stopped_by]
    assert stream.feed(b"abc") == "a"
    assert [*states, stream.stopped_by] == [None, "b"]
    assert stream.feed(b"more") == ""
    assert stream.finish() == ""


ALPHABET = "abé😀"


@given(
    text=st.text(ALPHABET, max_size=30),
    cuts=st.lists(st.integers(0, 90), max_size=12),
    stop=st.lists(st.text(ALPHABET, max_size=4), max_size=3),
)
def test_like_the_whole_text(text: str, cuts: list[int], stop: list[str]) -> None:
    data = text.encode()
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[start:end] for start, end in pairwise(edges)]
    out = fed(pieces, stop)
    assert "".join(out) == naive(pieces, stop)
    # Nothing is held back for longer than it could become a stop string.
    if not any(stop):
        decoded = [data[:edge].decode("utf-8", "ignore") for edge in edges[1:]]
        assert ["".join(out[: index + 1]) for index in range(len(pieces))] == decoded


@given(data=st.binary(max_size=40), cuts=st.lists(st.integers(0, 40), max_size=8))
def test_any_bytes(data: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[start:end] for start, end in pairwise(edges)]
    assert "".join(fed(pieces)) == data.decode("utf-8", "replace")
