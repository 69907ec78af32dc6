"""Clients that behave badly, at a real server in this process."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from test_serve import serving

from runtime_stub.server import connection
from runtime_stub.server.listener import listen
from runtime_stub.server.streaming import WRITE

HEAD = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"


async def echo(request: Request) -> Response:
    return PlainTextResponse(str(len(await request.body())))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything takes a fraction of its time."""
    for name, seconds in (
        ("HEAD_SECONDS", 1.0), ("SILENCE_SECONDS", 1.0), ("STUCK_SECONDS", 1.0),
        ("LOOK_SECONDS", 0.05),
    ):  # fmt: skip
        monkeypatch.setattr(connection, name, seconds)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for four connections."""
    monkeypatch.setattr("runtime_stub.server.serve.MOST", 4)
    monkeypatch.setattr("runtime_stub.server.serve._SPARE_FILES", 8)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with listen("127.0.0.1", 0) as found:
        yield found


def connect(listener: socket.socket, data: bytes = b"") -> socket.socket:
    client = socket.create_connection(listener.getsockname(), timeout=40)
    client.sendall(data)
    return client


def rest(client: socket.socket) -> bytes:
    """All that comes until the server closes."""
    with client:
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := client.recv(65536):
                data += piece
        return data


def status(client: socket.socket) -> int:
    """Of the next answer; the connection stays."""
    line = client.recv(65536).split(b"\r\n", 1)[0]
    assert line.startswith(b"HTTP/1.1 "), line
    return int(line.split()[1])


def test_silence_and_half_a_head(quick: None, listener: socket.socket) -> None:
    with serving(listener, echo):
        silent, half = connect(listener), connect(listener, HEAD[:-3])
        started = time.monotonic()
        assert rest(half).startswith(b"HTTP/1.1 408 ")
        assert rest(silent) == b""
        assert time.monotonic() - started < 20
        after_one = connect(listener, HEAD)
        assert status(after_one) == 200
        after_one.sendall(HEAD[:5])  # stops the timer of idle connections
        rest(after_one)


def test_a_body_that_stops_or_crawls(quick: None, listener: socket.socket) -> None:
    with serving(listener, echo):
        stopping, crawling = connect(listener, POST + b"x"), connect(listener, POST)
        until = time.monotonic() + 30
        with contextlib.suppress(OSError):
            crawling.settimeout(0.05)
            while time.monotonic() < until:
                crawling.sendall(b"x")
                with contextlib.suppress(TimeoutError):
                    if crawling.recv(1, socket.MSG_PEEK):
                        break
        crawling.settimeout(40)
        assert rest(crawling).startswith(b"HTTP/1.1 408 ")
        assert rest(stopping).startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() < until


def test_a_body_that_comes_in_time_is_answered(
    quick: None, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it takes longer than nothing of it may come."""
    monkeypatch.setattr(connection, "SILENCE_SECONDS", 3.0)
    with serving(listener, echo):
        client = connect(listener, POST)
        for _ in range(20):
            client.sendall(b"x" * 5_000)
            time.sleep(0.2)
        assert status(client) == 200
        client.close()


def test_an_answer_that_nobody_takes(quick: None, listener: socket.socket) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65536
            await asyncio.sleep(0)

    async def flood(_request: Request) -> Response:
        return StreamingResponse(pieces())

    with serving(listener, flood) as server:
        client = connect(listener, HEAD)
        assert client.recv(1)
        until = time.monotonic() + 30
        while server.server_state.connections and time.monotonic() < until:
            time.sleep(0.05)
        assert not server.server_state.connections
        client.close()


def test_a_slow_answer_is_no_slow_client(quick: None, listener: socket.socket) -> None:
    async def think(_request: Request) -> Response:
        await asyncio.sleep(3)
        return PlainTextResponse("done")

    with serving(listener, think):
        client = connect(listener, HEAD)
        assert status(client) == 200
        client.close()


def test_the_longest_waiting_makes_way(few: None, listener: socket.socket) -> None:
    with serving(listener, echo):
        silent = [connect(listener) for _ in range(8)]
        for _ in range(5):
            client = connect(listener, HEAD)
            assert status(client) == 200
            client.close()
        for client in silent:
            client.close()


def test_requests_in_progress_do_not_make_way(few: None, listener: socket.socket) -> None:
    go = asyncio.Event()

    async def wait(_request: Request) -> Response:
        await go.wait()
        return PlainTextResponse("done")

    with serving(listener, wait) as server:
        busy = [connect(listener, HEAD) for _ in range(4)]
        until = time.monotonic() + 10
        while len(server.server_state.tasks) < 4 and time.monotonic() < until:
            time.sleep(0.02)
        refused = rest(connect(listener))
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After" in refused
        server.servers[0].get_loop().call_soon_threadsafe(go.set)
        assert [status(client) for client in busy] == [200] * 4
        for client in busy:
            client.close()


def test_a_head_that_does_not_end(listener: socket.socket) -> None:
    with serving(listener, echo):
        client = connect(listener, HEAD[:-2])
        with contextlib.suppress(OSError):
            for number in range(100_000):
                client.sendall(b"X-%d: %s\r\n" % (number, b"x" * 1000))
        answer = rest(client)
        assert not answer or answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 "))
        client = connect(listener, HEAD)
        assert status(client) == 200
        client.close()


# One request is one request, whatever it looks like. Each of these hides a second one.

HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: localhost\r\n\r\n"
SHAPES = {
    "two lengths": b"Content-Length: 0\r\nContent-Length: 39\r\n",
    "a list of lengths": b"Content-Length: 0, 39\r\n",
    "a signed length": b"Content-Length: +0\r\n",
    "a length in other digits": b"Content-Length: 0x0\r\n",
    "an unknown coding": b"Transfer-Encoding: chunked, identity\r\n",
    "a coding with a tab": b"Transfer-Encoding:\x0bchunked\r\n",
    "a space before the colon": b"Content-Length : 0\r\n",
    "a folded first line": b" Content-Length: 39\r\n",
    "a null": b"X-Null: a\x00b\r\n",
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_that_hide_a_request(name: str, listener: socket.socket) -> None:
    with serving(listener, echo):
        first = b"POST / HTTP/1.1\r\n" + SHAPES[name] + b"Host: localhost\r\n\r\n"
        answer = rest(connect(listener, first + HIDDEN))
        assert answer.count(b"HTTP/1.1 ") == 1
        assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 ")), answer


class Pieces(Response):
    """Sends pieces past the application, where it may."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[bool] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def pass_on(piece: bytes) -> None:
            self.taken.append(scope[WRITE](piece))
            if not self.taken[-1]:
                await send({"type": "http.response.body", "body": piece, "more_body": True})

        self.taken.append(scope[WRITE](b"too early"))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for piece in (b"one, ", b"", b"x" * 5000, b"end"):
            await pass_on(piece)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        self.taken.append(scope[WRITE](b"too late"))


@pytest.mark.parametrize(
    ("version", "taken"),
    [("1.1", [False, True, False, True, True, False]), ("1.0", [False] * 6)],
)
def test_pieces_past_the_application(
    version: str, taken: list[bool], listener: socket.socket
) -> None:
    made: list[Pieces] = []

    async def pieces(_: Request) -> Response:
        made.append(Pieces())
        return made[-1]

    with serving(listener, pieces):
        head = f"GET / HTTP/{version}\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        with connect(listener, head.encode()) as client:
            answer = http.client.HTTPResponse(client)
            answer.begin()
            assert answer.read() == b"one, " + b"x" * 5000 + b"end"
    assert made[0].taken == taken
