"""A running pack and those who mean it ill: each gets a reason, and the server lives."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from running_pack import QUESTION, Place, address_of, place, sample_model, satchel, wait_for

pytestmark = pytest.mark.pack

CHAT = "/v1/chat/completions"
USER = {"role": "user", "content": "Hi"}
BODIES: dict[str, tuple[bytes, str]] = {
    "broken": (b'{"messages": [', "JSON"),
    "nothing": (b"", "JSON"),
    "no object": (b"[]", "object"),
    "wrong type": (b'{"messages": 3}', "messages"),
    "wrong type deep inside": (b'{"messages": [{"role": "user", "content": 3}]}', "content"),
    "unknown field": (b'{"messages": [], "temprature": 1}', "temprature"),
    "infinite number": (b'{"messages": [], "max_tokens": 1e999}', "max_tokens"),
    "huge integer": (b'{"messages": [], "seed": ' + b"9" * 5000 + b"}", "seed"),
    "negative": (b'{"messages": [{"role": "user", "content": "a"}], "n": -1}', "n "),
    "not a number": (b'{"messages": [], "temperature": NaN}', ""),
    "invalid UTF-8": (b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}', "UTF-8"),
    "half a pair": (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', ""),
    "deep list": (b'{"messages": ' + b"[" * 100_000, ""),
    "deep object": (b'{"messages": [], "metadata": ' + b'{"a":' * 100_000, ""),
    "empty stop": (
        b'{"messages": [{"role": "user", "content": "a"}], "stop": [""]}',
        "stop",
    ),
    "grammar that does not parse": (
        b'{"messages": [{"role": "user", "content": "a"}], "grammar": "root = yes"}',
        "grammar",
    ),
    "grammar without end": (
        b'{"messages": [{"role": "user", "content": "a"}], "grammar": "root ::= root"}',
        "grammar",
    ),
    "grammar nested too deep": (
        json.dumps(
            {"messages": [USER], "grammar": "root ::= " + "(" * 20_000 + '"a"' + ")" * 20_000}
        ).encode(),
        "grammar",
    ),
    "schema of no type": (
        json.dumps(
            {
                "messages": [USER],
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"type": "banana"}},
                },
            }
        ).encode(),
        "schema",
    ),
    "schema that refers to itself": (
        json.dumps(
            {
                "messages": [USER],
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"$ref": "#"}},
                },
            }
        ).encode(),
        "schema",
    ),
}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return place(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="module")
def server(here: Place) -> Iterator[subprocess.Popen[str]]:
    process = here.start("serve", "--port", "0", "--temperature", "0")
    yield process
    process.kill()
    process.communicate()


@pytest.fixture(scope="module")
def address(server: subprocess.Popen[str]) -> str:
    found = address_of(server)
    wait_for(partial(is_ready, found), "loading the model")
    return found


@pytest.fixture(autouse=True)
def alive(server: subprocess.Popen[str], address: str) -> Iterator[None]:
    """After each attack the server answers, with the engine it had."""
    engine = engines_of(server)
    yield
    assert server.poll() is None
    assert engines_of(server) == engine
    fields: dict[str, Any] = {"messages": [{"role": "user", "content": QUESTION}]}
    reply = httpx.post(f"{address}{CHAT}", json={**fields, "max_tokens": 12}, timeout=60)
    assert "Paris" in reply.json()["choices"][0]["message"]["content"]


def is_ready(address: str) -> bool:
    return httpx.get(f"{address}/health").status_code == 200


def engines_of(server: subprocess.Popen[str]) -> list[str]:
    threads = Path("/proc", str(server.pid), "task").iterdir()
    return [word for thread in threads for word in (thread / "children").read_text().split()]


def connected(address: str) -> socket.socket:
    host, port = address.removeprefix("http://").rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=60)


def exchange(address: str, data: bytes) -> bytes:
    """All that comes back for `data`, until the server closes or is silent."""
    got = bytearray()
    with connected(address) as end, contextlib.suppress(OSError):
        end.sendall(data)
        end.settimeout(5)
        while piece := end.recv(65536):
            got += piece
    return bytes(got)


def status_of(reply: bytes) -> int:
    assert reply.startswith(b"HTTP/1.1 "), reply[:200]
    return int(reply.split()[1])


@pytest.mark.parametrize("name", BODIES)
def test_bodies(address: str, name: str) -> None:
    body, word = BODIES[name]
    headers = {"Content-Type": "application/json"}
    reply = httpx.post(f"{address}{CHAT}", content=body, headers=headers, timeout=60)
    assert 400 <= reply.status_code < 500, reply.text
    assert word.lower() in reply.json()["error"]["message"].lower()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": [2**40]}),
        ("/v1/embeddings", {"input": [[1, -5]]}),
        ("/v1/embeddings", {"input": "word " * 20_000}),
        ("/v1/responses", {"input": 5}),
        ("/v1/messages", {"model": "default", "max_tokens": 2**70, "messages": [USER]}),
        ("/api/chat", {"model": "SmolLM2", "messages": [USER], "options": {"num_ctx": "x"}}),
        ("/api/generate", {"model": "SmolLM2", "prompt": "a", "format": {"type": 7}}),
        ("/detokenize", {"tokens": [10**9]}),
        ("/tokenize", {"content": "a", "messages": [USER]}),
    ],
)
def test_other_faces(address: str, path: str, body: Any) -> None:
    reply = httpx.post(f"{address}{path}", json=body, timeout=60)
    assert 400 <= reply.status_code < 500, reply.text
    assert reply.json()["error"]


def test_a_body_that_says_it_is_endless(address: str) -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    reply = exchange(address, f"{head}Content-Length: {10**15}\r\n\r\n".encode() + b"{")
    assert status_of(reply) == 413


def test_an_endless_body(address: str) -> None:
    """In chunks, so that nothing says how long it is; it is not kept in memory, either."""
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        "Transfer-Encoding: chunked\r\n\r\n"
    )
    piece = b"10000\r\n" + b" " * 65536 + b"\r\n"
    sent = 0
    got = b""
    with connected(address) as end, contextlib.suppress(ConnectionError):
        end.sendall(head.encode())
        while sent < 1 << 30:
            end.sendall(piece)
            sent += 65536
            end.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                got += end.recv(65536)
                break
            end.settimeout(60)
    assert sent < 200 << 20
    assert not got or status_of(got) == 413


@pytest.mark.parametrize(
    "line",
    ["X-Endless: " + "a" * 300_000, "\r\n".join(f"X-{n}: {n}" for n in range(50_000))],
    ids=["one line", "many lines"],
)
def test_an_endless_header(address: str, line: str) -> None:
    reply = exchange(address, f"GET /health HTTP/1.1\r\nHost: localhost\r\n{line}".encode())
    assert not reply or 400 <= status_of(reply) < 500


@pytest.mark.parametrize(
    "rest",
    [
        "Transfer-Encoding: chunked\r\n\r\nZZ\r\n{}\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n-5\r\n{}\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFFFFF\r\n{}\r\n0\r\n\r\n",
        "Transfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
        "Content-Length: -1\r\n\r\n{}",
        "Content-Length: ten\r\n\r\n{}",
        "Bad Header\r\n\r\n",
        ": nameless\r\n\r\n",
    ],
)
def test_odd_framing(address: str, rest: str) -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    reply = exchange(address, (head + rest).encode())
    assert not reply or 400 <= status_of(reply) < 500 or status_of(reply) == 501, reply[:300]


@pytest.mark.parametrize(
    "data",
    [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20, b"\x00" * 5000, b"GET\r\n\r\n", b"\r\n"],
    ids=["TLS", "zeros", "half a line", "an empty line"],
)
def test_what_is_not_http(address: str, data: bytes) -> None:
    reply = exchange(address, data)
    assert not reply or 400 <= status_of(reply) < 500


def test_heads_that_never_end_hold_up_nobody(address: str) -> None:
    """Two hundred of them, a letter now and then."""
    ends = [connected(address) for _ in range(200)]
    try:
        for _ in range(3):
            for end in ends:
                end.sendall(b"G")
            time.sleep(0.1)
        started = time.monotonic()
        assert httpx.get(f"{address}/health", timeout=20).status_code == 200
        assert time.monotonic() - started < 10
    finally:
        for end in ends:
            end.close()


def test_a_template_that_raises_or_never_ends(tmp_path: Path) -> None:
    """The pack was made with it, and still says what is wrong, to each who asks."""
    templates = {
        "{% if messages[0].content == 'Hi' %}{{ raise_exception('no greetings') }}{% endif %}ok": (
            "no greetings"
        ),
        "{% if messages[0].content == 'Hi' %}{% for a in range(99999) %}{% for b in range(99999) %}"
        "{% endfor %}{% endfor %}{% endif %}ok": "template",
    }
    for number, (template, word) in enumerate(templates.items()):
        recipe = tmp_path / f"{number}.toml"
        recipe.write_text(f"template = {json.dumps(template)}\n")
        pack = tmp_path / f"pack-{number}"
        satchel("pack", sample_model(), "-o", pack, "--recipe", recipe)
        where = place(tmp_path / f"place-{number}", source=pack)
        process = where.start("serve", "--port", "0")
        try:
            found = address_of(process)
            wait_for(partial(is_ready, found), "loading the model")
            body = {"messages": [USER], "max_tokens": 2}
            reply = httpx.post(f"{found}{CHAT}", json=body, timeout=60)
            assert reply.status_code == 400, reply.text
            assert word in reply.json()["error"]["message"]
            body = {"messages": [{**USER, "content": "Ho"}], "max_tokens": 2}
            assert httpx.post(f"{found}{CHAT}", json=body, timeout=60).status_code == 200
        finally:
            process.kill()
            process.communicate()
        shutil.rmtree(where.home)
