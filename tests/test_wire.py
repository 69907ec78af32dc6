from __future__ import annotations

import dataclasses
import socket
import struct
import threading
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime_stub.engine import wire
from runtime_stub.engine.messages import Failed, Request, Sampling, Status, Text
from runtime_stub.engine.wire import (
    TYPES,
    Cancel,
    Close,
    Connection,
    Frame,
    Inbox,
    WireError,
    encode,
)

NUMBERS = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(allow_nan=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | FLOATS | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)
PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    Any: JSON,
    int: NUMBERS,
    float: FLOATS,
    str: st.text(max_size=5),
    bytes: st.binary(max_size=5),
    bool: st.booleans(),
    type(None): st.none(),
}


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Whatever an annotation allows."""
    if kind in PLAIN:
        return PLAIN[kind]
    parts = typing.get_args(kind)
    origin = typing.get_origin(kind)
    if origin is tuple and parts[1:] == (...,):
        return st.lists(values(parts[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*map(values, parts))
    if origin is dict:
        return st.dictionaries(values(parts[0]), values(parts[1]), max_size=3)
    if origin is types.UnionType:
        return st.one_of(*map(values, parts))
    assert dataclasses.is_dataclass(kind)
    hints = typing.get_type_hints(kind)
    return st.builds(kind, **{field: values(hint) for field, hint in hints.items()})  # type: ignore[arg-type]


@pytest.fixture
def pair() -> Iterator[tuple[Connection, socket.socket]]:
    """A connection, and the bare other end."""
    ours, theirs = socket.socketpair()
    connection = Connection(ours)
    yield connection, theirs
    theirs.close()
    connection.close()


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: str(kind.__name__))
def test_every_message_comes_as_it_went(kind: type) -> None:
    @settings(max_examples=20, deadline=None, database=None)
    @given(values(kind), st.integers(0, 2**64 - 1))
    def check(message: Any, request: int) -> None:
        inbox = Inbox()
        (frame,) = inbox.add(encode(message, request) + b"more")
        assert (frame.kind, frame.request, frame.message()) == (kind, request, message)
        assert inbox._rest == b"more"

    check()


def test_whole_numbers_pass_for_floats() -> None:
    """As they come out of JSON."""
    (frame,) = Inbox().add(encode(Request(sampling=Sampling(temperature=1))))
    assert frame.message().sampling.temperature == 1.0


@pytest.mark.parametrize(
    "message",
    [
        Request(text="\ud800"),
        Request(sampling=Sampling(seed=2**64)),
        Request(messages=({"content": object()},)),
    ],
    ids=["surrogate", "integer", "object"],
)
def test_what_can_not_travel(message: Request) -> None:
    with pytest.raises(WireError, match="can't be handed over"):
        encode(message)


def test_too_deep() -> None:
    content: list[Any] = []
    for _ in range(50_000):
        content = [content]
    with pytest.raises(WireError, match="recursion"):
        encode(Request(messages=({"content": content},)))
    body = b"\x81\xa8messages" + b"\x91\x81\xa1c" + b"\x91" * 50_000 + b"\xc0"
    with pytest.raises(WireError, match="a Request can't be read"):
        Frame(Request, 1, body).message()


def test_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_MESSAGE", 1 << 20)
    longest = "x" * ((1 << 20) - 100)
    (frame,) = Inbox().add(encode(Text(longest)))
    assert frame.message() == Text(longest)
    with pytest.raises(WireError, match="1 MiB is the limit"):
        encode(Text("x" * (1 << 20) + "x"))


@pytest.mark.parametrize("text", ["", "a", "äöü\n\0", "\U0001f600" * 1000])
def test_nothing_but_text(text: str) -> None:
    frame = encode(Text(text), 7)
    assert bytes(frame).endswith(text.encode())
    (found,) = Inbox().add(frame)
    assert (found.kind, found.request, found.message()) == (Text, 7, Text(text))


@pytest.mark.parametrize("message", [Text("\ud83d"), Text("\ud83d", 1)], ids=repr)
def test_half_a_character(message: Text) -> None:
    with pytest.raises(WireError, match="can't be handed over"):
        encode(message)


def test_text_that_is_none() -> None:
    frame = encode(Text("abc"))
    frame[-2] = 0xFF
    (found,) = Inbox().add(frame)
    with pytest.raises(WireError, match="a Text can't be read"):
        found.message()


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (Status, b""),
        (Status, b"\xc1"),
        (Status, b"\x80"),
        (Status, b"\x81\xa5state\x01"),
        (Status, b"\x81\xa5state\xa1\xff"),
        (Status, b"\x81\xa5state\xa1x\xc0"),
        (Text, b"\x82\xa4text\xa1x\xa6choice\xa11"),
    ],
    ids=["nothing", "reserved", "missing", "type", "utf-8", "trailing", "number as text"],
)
def test_bodies_are_read_strictly(kind: type, body: bytes) -> None:
    with pytest.raises(WireError, match="can't be read"):
        Frame(kind, 0, body).message()


@pytest.mark.parametrize(
    "header", [(wire.MAX_MESSAGE + 1, 0, 0), (2**32 - 1, 0, 0), (0, len(TYPES) + 1, 0), (0, 255, 0)]
)
def test_headers_that_are_none(header: tuple[int, int, int]) -> None:
    frames = Inbox().add(encode(Cancel(), 7) + struct.pack(">IBQ", *header))
    assert next(frames).request == 7
    with pytest.raises(WireError, match="no frame"):
        next(frames)


@pytest.mark.parametrize("size", [1, 2, 7, 20, 50, 1000])
def test_frames_in_pieces(size: int) -> None:
    whole = encode(Text("a"), 1) + encode(Cancel(), 2) + encode(Text("b" * 300), 3)
    inbox = Inbox()
    seen = []
    for start in range(0, len(whole), size):
        for frame in inbox.add(whole[start : start + size]):
            seen.append((frame.request, frame.message()))
    assert seen == [(1, Text("a")), (2, Cancel()), (3, Text("b" * 300))]
    assert not inbox._rest


class TestConnection:
    def test_both_ways(self, pair: tuple[Connection, socket.socket]) -> None:
        here, there = pair[0], Connection(pair[1])
        for number in range(1000):
            here.send(Text(str(number)), number)
        there.send(Close())
        assert [there.receive().message().text for _ in range(1000)] == [
            str(number) for number in range(1000)
        ]
        assert here.receive().kind is Close
        there.close()
        with pytest.raises(EOFError):
            here.receive()

    def test_sending_never_waits(self, pair: tuple[Connection, socket.socket]) -> None:
        """However full the socket is; and the reader still gets everything."""
        here, bare = pair
        for number in range(20):
            here.send(Text("x" * 500_000), number)
        there = Connection(bare)
        assert [there.receive().request for _ in range(20)] == list(range(20))
        there.close()

    def test_waiting_for_a_while(self, pair: tuple[Connection, socket.socket]) -> None:
        with pytest.raises(TimeoutError):
            pair[0].receive(0.01)
        pair[1].sendall(encode(Close())[:4])
        with pytest.raises(TimeoutError):
            pair[0].receive(0.01)
        pair[1].sendall(encode(Close())[4:])
        assert pair[0].receive(5).kind is Close

    def test_cut_short(self, pair: tuple[Connection, socket.socket]) -> None:
        pair[1].sendall(encode(Close()) + encode(Failed("engine", "gone"))[:-3])
        pair[1].shutdown(socket.SHUT_WR)
        assert pair[0].receive().kind is Close
        with pytest.raises(EOFError):
            pair[0].receive()

    def test_what_came_before_the_end_is_read(self, pair: tuple[Connection, socket.socket]) -> None:
        """Even where the other end died with something unread."""
        here, bare = pair
        here.send(Text("unread"))
        bare.recv(1)
        bare.sendall(encode(Close()))
        bare.close()
        assert here.receive().kind is Close
        with pytest.raises(EOFError):
            here.receive()
        here.send(Text("into the void"))

    def test_finish_writes_all(self, pair: tuple[Connection, socket.socket]) -> None:
        here, bare = pair
        for _ in range(10):
            here.send(Text("x" * 100_000))
        there = Connection(bare)
        reader: Callable[[], object] = lambda: [there.receive() for _ in range(10)]  # noqa: E731
        thread = threading.Thread(target=reader)
        thread.start()
        here.finish(5)
        here.close()
        thread.join(5)
        assert not thread.is_alive()
        there.close()

    def test_closing_while_the_socket_is_full(self, pair: tuple[Connection, socket.socket]) -> None:
        for _ in range(10):
            pair[0].send(Text("x" * 500_000))
        pair[0].close()

    def test_break_off_wakes_the_receiver(self, pair: tuple[Connection, socket.socket]) -> None:
        timer = threading.Timer(0.05, pair[0].break_off)
        timer.start()
        with pytest.raises(EOFError):
            pair[0].receive()
        timer.join()
