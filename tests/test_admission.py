from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterable
from typing import Any

import pytest

from runtime_stub.server.admission import PER_BYTE, Admission, room_for_bodies, weight
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
        app = Admission(reader, 100 * PER_BYTE, lambda _: shape)
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
        app = Admission(reader, 100 * PER_BYTE, lambda _: shape)
        assert await ask(app, [b"x" * 101], length=101) == 413
        assert reader.read == 0

    asyncio.run(run())


def test_a_failing_request_gives_its_room_back() -> None:
    async def fail(scope: Any, receive: Any, send: Any) -> None:
        raise ZeroDivisionError

    async def run() -> None:
        app = Admission(fail, 100 * PER_BYTE, lambda _: shape)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await ask(app, [b""], length=90)

    asyncio.run(run())


@pytest.mark.parametrize(
    "written", [b"[],", b"{},", b'"",', b'{"a":1},', b'{"role":"user","content":""},']
)
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_many_short_values_count_with_what_becomes_of_them(written: bytes, step: int) -> None:
    """However the body is cut into pieces."""
    body = b"[" + written * 1000 + b"1]"
    objects = sys.getsizeof(json.loads(b"[" + written + b"1]")[0]) * 1000
    needed = len(body) * PER_BYTE + weight(body)
    assert needed > 2 * objects, "in two processes"

    async def run() -> None:
        reader = Reader()
        reader.go.set()
        pieces = [body[start : start + step] for start in range(0, len(body), step)]
        fits = Admission(reader, needed, lambda _: shape)
        assert await ask(fits, pieces, length=len(body)) == 200
        assert await ask(fits, pieces) == 200, "all was given back"
        too_small = Admission(reader, needed // 2, lambda _: shape)
        reader.read = 0
        assert await ask(too_small, pieces, length=len(body)) == 413
        assert reader.read < len(body) or step == len(body)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("free", "room"),
    [(0, 16 << 20), (1 << 30, 128 << 20), (64 << 30, 4 * MAX_BODY * PER_BYTE)],
)
def test_room_depends_on_free_memory(free: int, room: int) -> None:
    assert room_for_bodies(free) == room
