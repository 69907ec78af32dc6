from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn
from click.testing import CliRunner
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from runtime_stub.cli import pack
from runtime_stub.recipe import Recipe
from runtime_stub.server import connection
from runtime_stub.server.listener import address_of, listen, listen_unix
from runtime_stub.server.serve import run


async def hello(_request: Request) -> Response:
    return PlainTextResponse("hello")


@contextmanager
def process_kept_as_it_is() -> Iterator[None]:
    """`run` has its process to itself and does not put back what it sets there. Here other tests
    follow."""
    with contextlib.ExitStack() as afterwards:
        afterwards.callback(sys.setswitchinterval, sys.getswitchinterval())
        log = logging.getLogger("asyncio")
        afterwards.callback(log.setLevel, log.level)
        with contextlib.suppress(ImportError):
            import resource

            files = resource.RLIMIT_NOFILE
            afterwards.callback(resource.setrlimit, files, resource.getrlimit(files))
        yield


@contextmanager
def serving(listener: socket.socket, answer: Any = hello) -> Iterator[uvicorn.Server]:
    """Serve something until the block ends."""
    servers: list[uvicorn.Server] = []
    real = uvicorn.Server.startup

    async def startup(self: uvicorn.Server, sockets: list[socket.socket] | None = None) -> None:
        servers.append(self)
        await real(self, sockets)

    ready = threading.Event()
    app = Starlette(routes=[Route("/", answer)])
    thread = threading.Thread(target=run, args=(app, listener, ready.set))
    with process_kept_as_it_is():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(uvicorn.Server, "startup", startup)
            thread.start()
            assert ready.wait(10)
        try:
            yield servers[0]
        finally:
            servers[0].should_exit = True
            thread.join(10)
    assert not thread.is_alive()
    assert listener.fileno() == -1


def test_serves_and_tells_when_it_is_ready() -> None:
    listener = listen("127.0.0.1", 0)
    address = address_of(listener)
    with serving(listener):
        response = httpx.get(address, timeout=5)
        assert response.text == "hello"
        assert "server" not in response.headers


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no Unix sockets")
def test_serves_on_a_unix_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with serving(listen_unix(Path("socket"))):
        transport = httpx.HTTPTransport(uds="socket")
        with httpx.Client(transport=transport) as client:
            assert client.get("http://anything/").text == "hello"
    assert not Path("socket").exists()


def test_running_streams_may_end() -> None:
    """A server that is told to stop finishes what it has begun."""
    stop = threading.Event()

    async def slow() -> AsyncIterator[str]:
        yield "one "
        stop.set()
        await asyncio.sleep(0.3)
        yield "two"

    async def answer(_request: Request) -> StreamingResponse:
        return StreamingResponse(slow())

    listener = listen("127.0.0.1", 0)
    with serving(listener, answer) as server:
        address = address_of(listener)
        texts: list[str] = []
        client = threading.Thread(target=lambda: texts.append(httpx.get(address, timeout=5).text))
        client.start()
        assert stop.wait(5)
        server.should_exit = True
        client.join(5)
    assert texts == ["one two"]


def test_it_stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However seldom it looks around."""
    monkeypatch.setattr(connection, "LOOK_SECONDS", 60.0)
    with serving(listen("127.0.0.1", 0)):
        time.sleep(0.3)


STOPPED = """
import os, signal, sys
from starlette.applications import Starlette
from runtime_stub.cli import pack
from runtime_stub.recipe import Recipe
from runtime_stub.server.listener import listen
from runtime_stub.server.serve import run

run(
    Starlette(),
    listen("127.0.0.1", 0),
    lambda: os.kill(os.getpid(), int(sys.argv[1])),
)
print("stopped")
"""


@pytest.mark.skipif(os.name != "posix", reason="signals are sent as POSIX does")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it_and_what_follows_is_reached(number: signal.Signals) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STOPPED, str(int(number))],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "stopped\n"), done.stderr


NOBODY_LISTENS = """
import os, signal, threading
from starlette.applications import Starlette
from runtime_stub.server import connection
from runtime_stub.server.listener import listen
from runtime_stub.server.serve import run

connection.LOOK_SECONDS = 60.0
reader, writer = os.pipe()
os.close(reader)
run(
    Starlette(),
    listen("127.0.0.1", 0),
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start,
    on_stopping=lambda: os.write(writer, b"stopping"),
)
print("stopped")
"""


@pytest.mark.skipif(os.name != "posix", reason="signals are sent as POSIX does")
def test_it_ends_where_nobody_can_be_told() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NOBODY_LISTENS],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "stopped\n"), done.stderr


@pytest.mark.parametrize("key", ["", "  ", "ä", "a\nb", "a\x7f"])
def test_key_that_no_header_can_carry(key: str) -> None:
    result = CliRunner().invoke(pack, ["serve", "--api-key", key])
    assert result.exit_code == 2
    assert "printable ASCII" in result.output


@pytest.mark.parametrize("more", [["--host", "localhost"], ["--port", "0"], ["--open"]])
def test_unix_socket_goes_alone(more: list[str]) -> None:
    session = SimpleNamespace(recipe=Recipe("Clara"))
    result = CliRunner().invoke(pack, ["serve", "--unix-socket", "s", *more], obj=session)
    assert result.exit_code == 2
    assert "--unix-socket goes without" in result.output
