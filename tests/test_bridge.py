"""Answers on their way through a server in this process, which is the one that packs run."""

from __future__ import annotations

import asyncio
import http.client
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from engine_fixtures import ScriptedEngine, eventually
from running_pack import ROOT
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from test_serve import serving

from runtime_stub.engine.messages import Event, Finished, PromptRead, Request, Text
from runtime_stub.server import bridge
from runtime_stub.server.answer import NO_USAGE
from runtime_stub.server.bridge import Events
from runtime_stub.server.listener import listen
from runtime_stub.server.replies import ClientGoneError
from runtime_stub.server.streaming import Stream

HEAD = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
DONE = Finished("stop", NO_USAGE)
END = b"end"


class Plain:
    """Sends texts as they are."""

    def take(self, event: Event | None) -> bytes:
        if isinstance(event, Text):
            return event.text.encode()
        return END if isinstance(event, Finished) else b""


class Spoilt(Plain):
    """Fails at the third text."""

    def __init__(self) -> None:
        self._texts = 0

    def take(self, event: Event | None) -> bytes:
        self._texts += isinstance(event, Text)
        if self._texts == 3:
            raise ValueError("a mistake")
        return super().take(event)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with listen("127.0.0.1", 0) as found:
        yield found


def streaming(
    engine: ScriptedEngine, pieces: Callable[[], Plain] = Plain
) -> Callable[[HttpRequest], object]:
    """An application that streams what the engine answers."""

    async def answer(request: HttpRequest) -> Response:
        with Events(engine, Request(text="x")) as events:
            return Stream(events, await events.first(request), pieces())

    return answer


def ask(listener: socket.socket) -> socket.socket:
    """A client that takes next to nothing unless it reads."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(40)
    client.connect(listener.getsockname())
    client.sendall(HEAD)
    return client


def body_of(client: socket.socket, pause: Callable[[], None] = lambda: None) -> bytes:
    """The body of a reply, read piece by piece."""
    with client, http.client.HTTPResponse(client) as reply:
        reply.begin()
        body = b""
        while piece := reply.read(20_000):
            body += piece
            pause()
        return body


def test_a_slow_client_gets_everything_in_order(listener: socket.socket) -> None:
    """What it takes at once goes another way than what waits for it."""
    texts = [f"{number:06}" + "x" * 500 for number in range(4000)]
    flow: list[Event | float] = []
    for start in range(0, len(texts), 100):
        flow += [*map(Text, texts[start : start + 100]), 0.005]
    engine = ScriptedEngine([PromptRead(1, 0), *flow, DONE])
    with serving(listener, streaming(engine)):
        client = ask(listener)
        time.sleep(0.3)
        body = body_of(client, lambda: time.sleep(0.002))
    assert body == "".join(texts).encode() + END


def test_what_a_slow_client_leaves_waits_until_it_goes(listener: socket.socket) -> None:
    flow: list[Event | float] = [Text("x" * 1000), 0.0005]
    engine = ScriptedEngine([PromptRead(1, 0), *flow * 100_000])
    with serving(listener, streaming(engine)):
        client = ask(listener)
        assert eventually(lambda: bool(engine.tickets))
        time.sleep(0.5)
        assert not engine.tickets[0].cancelled.is_set()
        client.close()
        assert eventually(engine.tickets[0].cancelled.is_set)


def waiting(
    engine: ScriptedEngine, how: str, come: threading.Event, gone: threading.Event
) -> Callable[[HttpRequest], object]:
    """An application that waits for what the engine answers in one of the ways there are."""

    async def answer(request: HttpRequest) -> Response:
        come.set()
        if how == "late":
            while not gone.is_set():
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.2)
        with Events(engine, Request(text="x")) as events:
            try:
                if how == "first":
                    await events.first(request)
                elif how == "next":
                    await events.next(request)
                else:
                    await events.answer(request)
            except ClientGoneError:
                gone.set()
                raise
        return Response()

    return answer


@pytest.mark.parametrize("how", ["answer", "first", "next", "late"])
@pytest.mark.parametrize("said", [[], [0.3, PromptRead(1, 0)]], ids=["queued", "reading"])
def test_a_client_that_goes_away_is_missed_at_once(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch, how: str, said: list[Event | float]
) -> None:
    """However seldom it is looked for, also if it goes before anybody waits."""
    monkeypatch.setattr(bridge, "LOOK_SECONDS", 60.0)
    engine = ScriptedEngine(list(said))
    come, gone = threading.Event(), threading.Event()
    with serving(listener, waiting(engine, how, come, gone)):
        client = ask(listener)
        assert come.wait(10)
        if how == "late":
            client.close()
            gone.set()
        else:
            assert eventually(lambda: bool(engine.tickets))
            time.sleep(0.1)
            assert not engine.tickets[0].cancelled.is_set()
            client.close()
            assert gone.wait(10)
        assert eventually(lambda: bool(engine.tickets), 10)
        assert eventually(engine.tickets[0].cancelled.is_set, 10)


def test_who_waited_is_not_told_of_later_losses(listener: socket.socket) -> None:
    """A connection is kept for more requests, and closed after the last."""
    engine = ScriptedEngine([PromptRead(1, 0), Text("a"), DONE], [PromptRead(1, 0), DONE])
    rung: list[Exception | None] = []
    ring = bridge._Bell.ring

    def note(self: bridge._Bell, error: Exception | None = None) -> None:
        rung.append(error)
        ring(self, error)

    async def answer(request: HttpRequest) -> Response:
        with Events(engine, Request(text="x")) as events:
            await events.answer(request)
        return Response("done")

    with pytest.MonkeyPatch.context() as patch, serving(listener, answer) as server:
        patch.setattr(bridge._Bell, "ring", note)
        host, port = listener.getsockname()
        client = http.client.HTTPConnection(host, port, timeout=10)
        for _ in range(2):
            client.request("GET", "/")
            assert client.getresponse().read() == b"done"
        client.close()
        assert eventually(lambda: not server.server_state.connections)
    assert rung
    assert not any(rung)


def test_a_face_that_fails_costs_its_own_answer(listener: socket.socket) -> None:
    script: list[Event | float] = [PromptRead(1, 0), Text("ab"), 0.05, *map(Text, "cdef"), DONE]
    engine = ScriptedEngine(list(script), list(script))
    faces = [Plain(), Spoilt()]
    with serving(listener, streaming(engine, faces.pop)):
        with ask(listener) as client:
            reply = b"".join(iter(lambda: client.recv(4096), b""))
        assert reply.endswith(b"\r\n\r\n2\r\nab\r\n1\r\nc\r\n"), reply  # and no word of an end
        assert engine.tickets[0].cancelled.is_set()
        assert body_of(ask(listener)) == b"abcdef" + END


def test_events_of_the_loop_do_not_overtake_those_of_threads() -> None:
    class Mixed(ScriptedEngine):
        def _play(self, *_: object) -> None:
            pass

    async def play() -> list[Event]:
        engine = Mixed([])
        sinks = []
        engine.submit = lambda _, sink: sinks.append(sink) or super(Mixed, engine).submit(_, sink)  # type: ignore[method-assign,func-returns-value,assignment]
        events = Events(engine, Request(text="x"))
        seen: list[Event] = []
        for number in range(0, 10, 2):
            thread = threading.Thread(target=sinks[0], args=(Text(str(number)),))
            thread.start()
            thread.join()
            sinks[0](Text(str(number + 1)))
            if number == 4:
                events.divert(seen.append)
        await asyncio.sleep(0)
        return seen

    assert asyncio.run(play()) == [Text(str(number)) for number in range(10)]


LEFT = """
import asyncio, sys
from starlette.requests import Request
from runtime_stub.server.bridge import has_left

async def main():
    left = asyncio.Event()

    async def receive():
        await left.wait()
        return {"type": "http.disconnect"}

    http = Request({"type": "http"}, receive)
    seen = [await has_left(http), await has_left(http)]
    left.set()
    print(*seen, await has_left(http), "anyio._backends._asyncio" in sys.modules)
    assert len(asyncio.all_tasks()) == 1

asyncio.run(main())
"""


def test_looking_after_a_client_loads_nothing() -> None:
    """In an interpreter of its own: tests' clients have loaded it here."""
    done = subprocess.run(
        [sys.executable, "-c", LEFT], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False", "True", "False"]
