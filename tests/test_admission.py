from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from runtime_stub.server.admission import MOST, Admission, room_for_bodies
from runtime_stub.server.replies import MAX_BODY, Problem, problem_reply

Messages = list[dict[str, Any]]


def shape(problem: Problem) -> object:
    return {"error": problem.message}


class Reader:
    """Reads its request, then waits until it may answer."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.read = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            more = True
            while more:
                message = await receive()
                self.read += len(message["body"])
                more = message["more_body"]
        except Problem as problem:
            await problem_reply(problem, shape)(scope, receive, send)
            return
        await self.go.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


async def ask(app: Admission, pieces: Iterable[bytes], *, length: int | None = None) -> int:
    """The status of the answer to a request."""
    waiting = list(pieces)
    sent: Messages = []

    async def receive() -> dict[str, Any]:
        body = waiting.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(waiting)}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [] if length is None else [(b"content-length", str(length).encode())]
    await app({"type": "http", "path": "/v1/models", "headers": headers}, receive, send)
    if sent[0]["status"] == 503:
        assert (b"retry-after", b"2") in sent[0]["headers"]
    return int(sent[0]["status"])


@pytest.mark.parametrize("with_length", [True, False])
def test_what_does_not_fit_is_refused_until_there_is_room(with_length: bool) -> None:
    async def run() -> None:
        reader = Reader()
        app = Admission(reader, 100, lambda _: shape)
        length = 60 if with_length else None
        first = asyncio.create_task(ask(app, [b"x" * 30, b"x" * 30], length=length))
        while reader.read < 60:
            await asyncio.sleep(0)
        assert await ask(app, [b"x" * 30, b"x" * 30], length=length) == 503
        second = asyncio.create_task(ask(app, [b"x" * 40], length=40))
        while reader.read < (100 if with_length else 130):
            await asyncio.sleep(0)
        assert await ask(app, [b"x"], length=1) == 503
        reader.go.set()
        assert await first == await second == 200
        assert await ask(app, [b"x" * 100], length=100) == 200

    asyncio.run(run())


def test_what_is_refused_for_its_length_is_not_read() -> None:
    async def run() -> None:
        reader = Reader()
        app = Admission(reader, 100, lambda _: shape)
        assert await ask(app, [b"x" * 101], length=101) == 503
        assert reader.read == 0

    asyncio.run(run())


def test_a_failing_request_gives_its_room_back() -> None:
    async def fail(scope: Any, receive: Any, send: Any) -> None:
        raise ZeroDivisionError

    async def run() -> None:
        app = Admission(fail, 100, lambda _: shape)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await ask(app, [b""], length=90)

    asyncio.run(run())


@pytest.mark.parametrize(("free", "room"), [(0, MAX_BODY), (512 << 20, 32 << 20), (64 << 30, MOST)])
def test_room_depends_on_free_memory(free: int, room: int) -> None:
    assert room_for_bodies(free) == room
