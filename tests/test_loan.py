from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from engine_fixtures import eventually
from scripted_process import running_loop

from runtime_stub.engine.loan import Loan
from runtime_stub.engine.messages import Text
from runtime_stub.engine.wire import Connection, Frame, WireError


@pytest.fixture
def pair() -> Iterator[tuple[Connection, Connection]]:
    """Both ends of a connection."""
    ends = [Connection(end) for end in socket.socketpair()]
    yield ends[0], ends[1]
    for end in ends:
        end.close()


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    with running_loop() as found:
        yield found


def test_the_loop_reads_until_it_is_told_not_to(
    pair: tuple[Connection, Connection], loop: asyncio.AbstractEventLoop
) -> None:
    ours, theirs = pair
    seen: list[tuple[str, int]] = []

    def take(frame: Frame) -> None:
        seen.append((frame.message().text, threading.get_ident()))

    loan = Loan(ours, loop, take)
    assert not loan.wait(0.05)
    theirs.send(Text("a"))
    theirs.send(Text("b"))
    assert eventually(lambda: len(seen) == 2)
    assert loan.wait(0)
    loan.settle()
    assert loan.is_over
    theirs.send(Text("c"))
    assert ours.receive(5).message() == Text("c")
    assert [text for text, _ in seen] == ["a", "b"]
    assert threading.get_ident() not in {thread for _, thread in seen}


def test_what_ends_it_is_raised_in_the_thread(
    pair: tuple[Connection, Connection], loop: asyncio.AbstractEventLoop
) -> None:
    ours, theirs = pair

    def refuse(frame: Frame) -> None:
        raise WireError("not that")

    loan = Loan(ours, loop, refuse)
    theirs.send(Text("a"))
    with pytest.raises(WireError, match="not that"):
        loan.wait(20)
    again = Loan(ours, loop, refuse)
    theirs.break_off()
    with pytest.raises(EOFError):
        again.wait(20)


def test_given_back_in_the_loop_it_is_back_at_once(
    pair: tuple[Connection, Connection], loop: asyncio.AbstractEventLoop
) -> None:
    loan = Loan(pair[0], loop, lambda _: None)
    found: list[bool] = []

    def end() -> None:
        loan.end()
        found.append(loan.is_over)

    loop.call_soon_threadsafe(end)
    assert eventually(lambda: found == [True])


def test_a_loop_that_is_closed_has_nothing(pair: tuple[Connection, Connection]) -> None:
    with running_loop() as loop:
        early = Loan(pair[0], loop, lambda _: None)
        pair[1].send(Text("a"))
        assert eventually(lambda: early.wait(0.05))
    early.settle()
    early.end()
    late = Loan(pair[0], loop, lambda _: None)
    assert late.wait(5)
    assert early.is_over
    assert late.is_over


def test_a_loop_that_is_busy_is_no_silence(
    pair: tuple[Connection, Connection], loop: asyncio.AbstractEventLoop
) -> None:
    loan = Loan(pair[0], loop, lambda _: None)
    assert not loan.wait(0.05)
    started = threading.Event()

    def work() -> None:
        started.set()
        time.sleep(1)

    loop.call_soon_threadsafe(work)
    assert started.wait(5)
    pair[1].send(Text("a"))
    assert loan.wait(0.05)
    loan.settle()
