from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from runtime_stub.errors import AddressError
from runtime_stub.server.listener import address_of, listen
from runtime_stub.server.serve import run


def test_free_port() -> None:
    with listen("127.0.0.1", 0) as listener:
        address = address_of(listener)
        assert address.startswith("http://127.0.0.1:")
        assert int(address.rpartition(":")[2]) > 0
        socket.create_connection(listener.getsockname(), timeout=2).close()


def test_port_in_use() -> None:
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(AddressError, match=f"port {port} on 127.0.0.1 is in use") as caught:
            listen("127.0.0.1", port)
    assert caught.value.exit_code == 9
    assert "--port" in caught.value.hint
    listen("127.0.0.1", port).close()


@pytest.mark.parametrize(
    "host", ["no.such.host.invalid", "1.2.3.4.5", "a\x00b", "x" * 300, "ä" * 80]
)
def test_bad_host(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def offline(name: str, *arguments: Any, **more: Any) -> Any:
        if name == "no.such.host.invalid":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(name, *arguments, **more)

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    with pytest.raises(AddressError) as caught:
        listen(host, 0)
    assert caught.value.exit_code == 9


def test_address_of_another_machine() -> None:
    # 192.0.2.0/24 is set aside for documentation.
    with pytest.raises(AddressError, match=r"192\.0\.2\.1"):
        listen("192.0.2.1", 0)


@pytest.mark.parametrize("port", [-1, 65_536, 70_000, 2**40])
def test_port_out_of_range(port: int) -> None:
    with pytest.raises(AddressError, match="out of range"):
        listen("127.0.0.1", port)


def test_no_right_to_the_port(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    class Refusing(socket.socket):
        bind = refuse

    monkeypatch.setattr(socket, "socket", Refusing)
    with pytest.raises(AddressError, match="port 80 needs administrator rights"):
        listen("127.0.0.1", 80)


def test_ipv6() -> None:
    if not socket.has_ipv6:
        pytest.skip("this Python has no IPv6")
    try:
        listener = listen("::1", 0)
    except AddressError:
        pytest.skip("this machine has no IPv6")
    with listener:
        assert address_of(listener).startswith("http://[::1]:")


def test_serves_and_tells_when_it_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hello(_request: Request) -> PlainTextResponse:
        return PlainTextResponse("hello")

    servers: list[uvicorn.Server] = []
    real = uvicorn.Server.startup

    async def startup(self: uvicorn.Server, sockets: list[socket.socket] | None = None) -> None:
        servers.append(self)
        await real(self, sockets)

    monkeypatch.setattr(uvicorn.Server, "startup", startup)
    listener = listen("127.0.0.1", 0)
    address = address_of(listener)
    ready = threading.Event()
    app = Starlette(routes=[Route("/", hello)])
    thread = threading.Thread(target=run, args=(app, listener, ready.set))
    thread.start()
    try:
        assert ready.wait(10)
        response = httpx.get(address, timeout=5)
        assert response.text == "hello"
        assert "server" not in response.headers
    finally:
        servers[0].should_exit = True
        thread.join(10)
    assert not thread.is_alive()
    assert listener.fileno() == -1


STOPPED = """
import os, signal, sys
from starlette.applications import Starlette
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
