from __future__ import annotations

import http.server
import json
import os
import pty
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from windows import window

from runtime_stub import desktop


class Handler(http.server.BaseHTTPRequestHandler):
    reply = b""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/web/face.json" else 404)
        self.end_headers()
        self.wfile.write(self.reply)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (json.dumps({"name": "Clinic"}).encode(), True),
        (json.dumps({"name": "Other"}).encode(), False),
        (b"<html>", False),
        (b"[]", False),
        (b"\xff", False),
    ],
)
def test_who_serves_there(address: str, reply: bytes, expected: bool) -> None:
    Handler.reply = reply
    assert desktop.serves_already(address, "Clinic") is expected


def test_nobody_serves_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert desktop.serves_already(f"http://127.0.0.1:{port}", "Clinic") is None


def test_somebody_who_does_not_speak_http() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        assert desktop.serves_already(f"http://127.0.0.1:{port}", "Clinic") is False


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, False),
        ({"DISPLAY": ""}, False),
        ({"DISPLAY": ":0"}, True),
        ({"WAYLAND_DISPLAY": "w"}, True),
    ],
)
def test_desktops(
    variables: dict[str, str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    assert desktop.has_desktop(variables) is expected


def test_what_a_double_click_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    x = {"DISPLAY": ":0"}
    with open(os.devnull) as nothing, open(os.devnull, "w") as nowhere:
        monkeypatch.setattr(sys, "stdin", nothing)
        monkeypatch.setattr(sys, "stdout", nowhere)
        assert desktop.double_clicked(x)
        assert not desktop.double_clicked({})
        assert not desktop.is_piped_to()
        with open(tmp_path / "nohup.out", "w") as kept:
            monkeypatch.setattr(sys, "stdout", kept)
            assert not desktop.double_clicked(x)
        leader, follower = pty.openpty()
        with os.fdopen(follower, "w") as screen, os.fdopen(leader, "rb"):
            monkeypatch.setattr(sys, "stdout", screen)
            assert not desktop.double_clicked(x)
        assert not desktop.window_closes(x)


def test_piped_to(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(writing)
    with os.fdopen(reading) as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        assert desktop.is_piped_to()


KEEPING = """
from runtime_stub import desktop
closes = desktop.window_closes({"DISPLAY": ":0"}), desktop.window_closes({})
print(closes, flush=True)
desktop.wait_for_key()
print("closed", flush=True)
"""


def test_window_that_is_there_for_us_alone_stays_until_a_key_is_pressed() -> None:
    with window([sys.executable, "-c", KEEPING], dict(os.environ)) as opened:
        opened.wait_for("Press a key to close this window")
        assert "(True, False)" in opened.text
        opened.pump(0.3)
        assert "closed" not in opened.text
        opened.type("x")
        opened.wait_for("closed")
        assert opened.end() == 0
