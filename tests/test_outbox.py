from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from runtime_stub.engine.outbox import Outbox


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(5)
    yield ours, theirs
    ours.close()
    theirs.close()


def writers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "engine-writer"]


def received(end: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = end.recv(size - len(data))
        assert piece, "it ended too soon"
        data += piece
    return bytes(data)


def test_small_things_need_no_thread(pair: tuple[socket.socket, socket.socket]) -> None:
    outbox, before = Outbox(pair[0]), len(writers())
    for number in range(100):
        outbox.send(bytes([number]))
    assert received(pair[1], 100) == bytes(range(100))
    assert len(writers()) == before
    outbox.finish(1)


def test_what_is_gathered_goes_with_the_next(pair: tuple[socket.socket, socket.socket]) -> None:
    outbox = Outbox(pair[0])
    outbox.gather(b"one ")
    outbox.gather(b"two ")
    pair[1].setblocking(False)
    with pytest.raises(BlockingIOError):
        pair[1].recv(1)
    outbox.send(b"three ")
    assert pair[1].recv(100) == b"one two three "
    outbox.gather(b"four")
    outbox.flush()
    assert pair[1].recv(100) == b"four"
    outbox.gather(b" five")
    outbox.finish(1)
    assert pair[1].recv(100) == b" five"


@pytest.mark.parametrize("blocking", [True, False])
def test_nothing_waits_and_the_order_stays(
    pair: tuple[socket.socket, socket.socket], blocking: bool
) -> None:
    """Whether or not the socket's other user wants to wait."""
    pair[0].setblocking(blocking)
    outbox = Outbox(pair[0])
    sent = [bytes([number]) * (300_000 + number) for number in range(20)]
    for number, data in enumerate(sent):
        (outbox.gather if number % 3 else outbox.send)(data)
    outbox.flush()
    whole = b"".join(sent)
    assert received(pair[1], len(whole) - 5) + received(pair[1], 5) == whole
    # It has caught up, and goes on as before.
    outbox.send(b"more")
    assert received(pair[1], 4) == b"more"
    outbox.finish(5)


def test_many_senders(pair: tuple[socket.socket, socket.socket]) -> None:
    """What one thread sends is not mixed with another's."""
    outbox = Outbox(pair[0])

    def send(letter: bytes) -> None:
        for _ in range(300):
            outbox.send(letter * 1000)

    threads = [threading.Thread(target=send, args=(letter,)) for letter in (b"a", b"b", b"c")]
    for thread in threads:
        thread.start()
    data = received(pair[1], 900_000)
    pieces = [data[start : start + 1000] for start in range(0, len(data), 1000)]
    assert all(len(set(piece)) == 1 for piece in pieces)
    assert {letter: pieces.count(letter * 1000) for letter in (b"a", b"b", b"c")} == {
        b"a": 300,
        b"b": 300,
        b"c": 300,
    }
    for thread in threads:
        thread.join()
    outbox.finish(1)


def test_the_other_end_is_gone(pair: tuple[socket.socket, socket.socket]) -> None:
    outbox = Outbox(pair[0])
    pair[1].close()
    outbox.send(b"into the void")
    outbox.send(b"x" * 10_000_000)
    outbox.finish(1)


def test_the_other_end_goes_while_it_is_behind(pair: tuple[socket.socket, socket.socket]) -> None:
    outbox = Outbox(pair[0])
    outbox.send(b"x" * 10_000_000)
    pair[1].close()
    outbox.finish(5)
    outbox.send(b"nothing comes of this")
    assert all(not thread.is_alive() for thread in writers())


def test_finishing_waits_for_the_rest(pair: tuple[socket.socket, socket.socket]) -> None:
    outbox = Outbox(pair[0])
    outbox.send(b"x" * 3_000_000)
    outbox.finish(0.01)  # patience ends, and nothing is lost by it
    assert received(pair[1], 3_000_000) == b"x" * 3_000_000
    outbox.finish(5)
