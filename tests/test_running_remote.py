"""The engine of a real server, in its own process: what happens when one of the two dies."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from running_pack import QUESTION, Place, address_of, place, wait_for

pytestmark = pytest.mark.pack


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A pack that has been started before."""
    found = place(tmp_path_factory.mktemp("ready"))
    found.run("--version")
    return found


@pytest.fixture
def server(ready: Place) -> Iterator[subprocess.Popen[str]]:
    process = ready.start("serve", "--port", "0", "--temperature", "0")
    yield process
    process.kill()
    process.communicate()


@pytest.fixture
def address(server: subprocess.Popen[str]) -> str:
    """Of the server, once its model is loaded."""
    found = address_of(server)
    wait_for(lambda: httpx.get(f"{found}/health").status_code == 200, "loading the model")
    return found


def engine_of(server: subprocess.Popen[str]) -> int:
    """The engine's process."""
    threads = Path("/proc", str(server.pid), "task").iterdir()
    children = [word for thread in threads for word in (thread / "children").read_text().split()]
    assert len(children) == 1
    return int(children[0])


def maps(process: int) -> str:
    return Path("/proc", str(process), "maps").read_text()


def body(text: str, **fields: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": text}], **fields}


def answer(address: str) -> httpx.Response:
    return httpx.post(f"{address}/v1/chat/completions", json=body(QUESTION), timeout=30)


def test_two_processes(ready: Place, server: subprocess.Popen[str], address: str) -> None:
    assert "Paris" in answer(address).text
    engine = engine_of(server)
    assert "libllama" in maps(engine)
    assert "libllama" not in maps(server.pid)
    assert Path(f"/proc/{engine}/comm").read_text().strip() == "assistant"
    assert os.getsid(engine) == engine  # out of Ctrl-C's reach
    assert Path(f"/proc/{engine}/fd/0").readlink() == Path("/dev/null")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV])
def test_engine_dies_during_an_answer(
    server: subprocess.Popen[str], address: str, number: signal.Signals
) -> None:
    engine = engine_of(server)
    story = body("Tell me a very long story.", stream=True, max_tokens=2000)
    lines: list[str] = []
    # Whether it is told in the stream or by breaking it off is the face's business.
    with (
        contextlib.suppress(httpx.RemoteProtocolError),
        httpx.stream("POST", f"{address}/v1/chat/completions", json=story, timeout=30) as reply,
    ):
        for line in reply.iter_lines():
            if not lines:
                os.kill(engine, number)
            lines.append(line)
        assert any("error" in line for line in lines)
        assert "data: [DONE]" not in lines
    started = time.monotonic()
    assert "Paris" in answer(address).text
    assert time.monotonic() - started < 10
    assert server.poll() is None
    assert engine_of(server) != engine


@pytest.mark.all  # it has a minute to answer
def test_engine_hangs_during_an_answer(server: subprocess.Popen[str], address: str) -> None:
    engine = engine_of(server)
    story = body("Tell me a very long story.", stream=True, max_tokens=2000)
    lines: list[str] = []
    with (
        contextlib.suppress(httpx.RemoteProtocolError),
        httpx.stream("POST", f"{address}/v1/chat/completions", json=story, timeout=120) as reply,
    ):
        for line in reply.iter_lines():
            if not lines:
                os.kill(engine, signal.SIGSTOP)
            lines.append(line)
    assert any("did not respond" in line for line in lines)
    assert "Paris" in answer(address).text
    assert server.poll() is None
    assert engine_of(server) != engine


def test_engine_dies_while_idle(server: subprocess.Popen[str], address: str) -> None:
    engine = engine_of(server)
    os.kill(engine, signal.SIGKILL)
    # It is waited for only once its end was seen: what comes now is for the next one.
    wait_for(lambda: not Path(f"/proc/{engine}").exists(), "waiting for it")
    assert "Paris" in answer(address).text
    assert server.poll() is None


def test_ctrl_c_lets_a_running_answer_end(server: subprocess.Popen[str], address: str) -> None:
    story = body("Tell me a story.", stream=True, max_tokens=60)
    lines: list[str] = []
    with httpx.stream("POST", f"{address}/v1/chat/completions", json=story, timeout=30) as reply:
        for line in reply.iter_lines():
            if not lines:
                server.send_signal(signal.SIGINT)
            lines.append(line)
    assert "data: [DONE]" in lines
    server.wait(10)
    assert server.stderr is not None
    assert "unexpectedly" not in server.stderr.read()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_server_ends_and_the_engine_with_it(
    server: subprocess.Popen[str], address: str, number: signal.Signals
) -> None:
    engine = Path("/proc", str(engine_of(server)))
    server.send_signal(number)
    server.wait(10)

    def gone() -> bool:
        try:
            return (engine / "stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
        except OSError:
            return True

    wait_for(gone, "the end of the engine", 20)  # it has nothing else to end for


def test_engine_is_started_by_servers_alone(ready: Place) -> None:
    result = ready.run("engine", "--fd", "0", check=False)
    assert result.returncode == 3
    assert result.stderr.count("\n") == 1
    assert "engine" not in ready.run("--help").stdout
