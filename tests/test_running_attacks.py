"""A running pack, and clients that mean it no good. All on the loopback address, all bounded."""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from running_pack import Place, address_of, place, wait_for

from runtime_stub.server.connection import MOST
from runtime_stub.server.replies import MAX_BODY

pytestmark = [pytest.mark.pack, pytest.mark.slow]
FLOOD = 10_000


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A pack that has been started before."""
    found = place(tmp_path_factory.mktemp("ready"))
    found.run("--version")
    return found


class Server:
    """A running pack. What it logs is read all the time: it would wait for that."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.pid = process.pid
        self.process = process
        self.address = address_of(process)
        self._told: list[str] = []
        assert process.stderr is not None
        self._reader = threading.Thread(target=self._told.extend, args=(process.stderr,))
        self._reader.start()

    def told(self) -> list[str]:
        """All lines of its log, but for the one that says where it listens. Waits for its end."""
        self._reader.join(60)
        assert not self._reader.is_alive()
        return [line.rstrip("\n") for line in self._told]


@pytest.fixture
def server(ready: Place) -> Iterator[Server]:
    process = ready.start("serve", "--port", "0", "--access-log")
    try:
        server = Server(process)
        yield server
    finally:
        process.kill()
        process.wait()
    server.told()
    process.communicate()


@pytest.fixture
def address(server: Server) -> str:
    """Of the server, once its model is loaded."""
    wait_for(lambda: healthy(server.address), "loading the model", 120)
    return server.address


def healthy(address: str) -> bool:
    return httpx.get(f"{address}/health", timeout=60).status_code == 200


def connect(address: str, data: bytes = b"") -> socket.socket:
    host, port = address.removeprefix("http://").split(":")
    client = socket.create_connection((host, int(port)), timeout=60)
    client.sendall(data)
    return client


def rest(client: socket.socket) -> bytes:
    """All that comes until the server closes."""
    data = b""
    with client, contextlib.suppress(ConnectionResetError):
        while piece := client.recv(65536):
            data += piece
    return data


def memory(process: int) -> int:
    """Bytes resident at the most so far."""
    text = Path("/proc", str(process), "status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) * 1024


def test_ten_thousand_connections(server: Server, address: str) -> None:
    """They come in waves that are larger than what the server takes; others are served still."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wave = 2 * MOST
    if hard < wave + 100:
        pytest.skip("too few files may be open here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wave + 100), hard))
    before = memory(server.pid)
    opened = 0
    while opened < FLOOD:
        silent = [connect(address, b"GET /" if opened % 2 else b"") for _ in range(wave)]
        opened += wave
        assert healthy(address)
        for client in silent:
            client.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert memory(server.pid) - before < 64 << 20
    wait_for(lambda: len(list(Path(f"/proc/{server.pid}/fd").iterdir())) < MOST // 4, "closing")


def test_bodies_beyond_memory_are_refused(server: Server, address: str) -> None:
    """Before a byte of them is taken; what is there already goes on."""
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % MAX_BODY
    )
    before = memory(server.pid)
    held = [connect(address, head + b"[" * 1000) for _ in range(4)]
    refused = [rest(connect(address, head)) for _ in range(20)]
    assert all(answer.startswith(b"HTTP/1.1 503 ") for answer in refused)
    assert healthy(address)
    for client in held:
        client.close()
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}

    def answered() -> bool:
        reply = httpx.post(f"{address}/v1/chat/completions", json=body, timeout=120)
        return reply.status_code == 200

    wait_for(answered, "an answer", 60)
    assert memory(server.pid) - before < 100 << 20


def test_one_request_stays_one(address: str) -> None:
    both = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    )
    answer = rest(connect(address, both))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1


def test_names_and_pages_of_others(address: str) -> None:
    for host in ("attacker.example", "localhost.attacker.example", "127.0.0.1.attacker.example"):
        answer = httpx.get(f"{address}/v1/models", headers={"Host": host})
        assert answer.status_code == 403
    for origin in ("https://attacker.example", "null", "http://localhost.attacker.example"):
        # As a form or a script sends it, without asking first.
        headers = {"Origin": origin, "Content-Type": "text/plain"}
        answer = httpx.post(f"{address}/v1/chat/completions", headers=headers, content=b"{}")
        assert answer.status_code == 403


def test_the_access_log_says_only_what_happened(server: Server, address: str) -> None:
    evil = "/%0a%7b%22status%22%3a200%7d%1b%5b2J%c2%9b%7f%e2%80%ae"
    assert httpx.get(address + evil).status_code == 404
    answer = rest(
        connect(
            address,
            b"GET /raw\x1b[2J HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        )
    )
    assert answer.startswith(b"HTTP/1.1 4")
    server.process.send_signal(signal.SIGTERM)
    lines = server.told()
    logged = [json.loads(line) for line in lines if line.startswith("{")]
    assert [entry for entry in logged if entry["path"].startswith("/\n{")]
    assert all(line.isascii() and line.isprintable() for line in lines)
    assert len(lines) - len(logged) == 1  # that it stops
