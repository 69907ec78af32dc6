"""A pack that holds its model compressed, extracting it while the kernel keeps it in.

`ask` and `serve` extract before they are confined; `chat`, whose prompt is there at once, and the
engine of `serve --lazy` do so from inside.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from running_pack import ASK, QUESTION, Place, address_of, compressed_pack, place, wait_for

from runtime_stub.confinement import landlock, seccomp

pytestmark = [
    pytest.mark.pack,
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.platform != "linux" or not landlock.version()[0] or not seccomp.available()[0],
        reason="the kernel can't confine",
    ),
]


@pytest.fixture(scope="module")
def compressed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compressed_pack(tmp_path_factory.mktemp("compressed"))


@pytest.fixture
def fresh(compressed: Path, tmp_path: Path) -> Place:
    """Its runtime is extracted, its model is not."""
    there = place(tmp_path, source=compressed)
    there.run("--version")
    return there


def parts(there: Place) -> list[Path]:
    return list((there.cache / "models").glob("*.part"))


def check_whole(there: Place) -> None:
    """The model, complete, and nothing else but its lock."""
    (model,) = (there.cache / "models").glob("*.gguf")
    assert hashlib.sha256(model.read_bytes()).hexdigest() == model.stem
    names = sorted(path.name for path in (there.cache / "models").iterdir())
    assert names == [model.name, f"{model.stem}.lock"]


def extracting(there: Place) -> dict[str, str]:
    """/proc/PID/status of the process that writes the model, empty for none."""
    written = {str(part) for part in parts(there)}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(str(each.readlink()) in written for each in (process / "fd").iterdir()):
                lines = (process / "status").read_text().splitlines()
                return dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    return {}


def caught(there: Place) -> dict[str, str]:
    """The process that extracts, stopped in the middle of it."""
    found: dict[str, str] = {}

    def stop() -> bool:  # once some of it is written
        status = extracting(there) if any(part.stat().st_size for part in parts(there)) else {}
        if status:
            os.kill(int(status["Pid"]), signal.SIGSTOP)
            found.update(status)
        return bool(status)

    wait_for(stop, "extracting", 60)
    assert parts(there), "it was over already"
    return found


@contextlib.contextmanager
def chatting(there: Place) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [there.pack, "chat", "--temperature", "0"],
        env=there.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def serving(there: Place, *more: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    server = there.start("serve", "--port", "0", "--temperature", "0", *more)
    try:
        yield server, address_of(server)
    finally:
        server.kill()
        server.communicate()


def ask_server(address: str) -> str:
    body = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 20}
    return httpx.post(f"{address}/v1/chat/completions", json=body, timeout=120).text


def test_ask_after_an_interrupted_start(fresh: Place) -> None:
    with subprocess.Popen(
        [fresh.pack, *ASK],
        env=fresh.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        caught(fresh)
        process.kill()
    assert "Paris" in fresh.run(*ASK).stdout
    check_whole(fresh)


def test_chat_extracts_from_inside(fresh: Place) -> None:
    with chatting(fresh) as process:
        status = caught(fresh)
        assert status["Seccomp"] == "2", "it is confined already"
        os.kill(int(status["Pid"]), signal.SIGCONT)
        output, errors = process.communicate(f"{QUESTION}\n", timeout=120)
    assert "Paris" in output, errors
    check_whole(fresh)


def test_chat_after_an_interrupted_start(fresh: Place) -> None:
    with chatting(fresh):
        caught(fresh)
    size = parts(fresh)[0].stat().st_size
    assert size > 0, "what was written stays"
    with chatting(fresh) as process:
        output, errors = process.communicate(f"{QUESTION}\n", timeout=120)
    assert "Paris" in output, errors
    check_whole(fresh)


def test_serve(fresh: Place) -> None:
    with serving(fresh) as (_, address):
        assert "Paris" in ask_server(address)
    check_whole(fresh)


def wake(address: str) -> None:
    """Ask a lazy server, so that it starts to extract, and leave before it answers."""
    with pytest.raises(httpx.TimeoutException):
        httpx.post(
            f"{address}/v1/chat/completions",
            json={"messages": [{"role": "user", "content": QUESTION}]},
            timeout=0.3,
        )


def test_the_engine_of_a_lazy_server_extracts_from_inside(fresh: Place) -> None:
    """Interrupted, with the server, and by itself: it is started anew, and goes on."""
    with serving(fresh, "--lazy") as (server, address):
        wake(address)
        status = caught(fresh)
        assert int(status["PPid"]) == server.pid
        assert status["Seccomp"] == "2"
        os.kill(int(status["Pid"]), signal.SIGKILL)
        wait_for(lambda: "Paris" in ask_server(address), "an answer", 120)
    check_whole(fresh)
    (model,) = (fresh.cache / "models").glob("*.gguf")
    model.unlink()
    with serving(fresh, "--lazy") as (server, address):
        wake(address)
        caught_engine = caught(fresh)
        server.kill()
        server.wait()
        os.kill(int(caught_engine["Pid"]), signal.SIGCONT)  # it finds the server gone, and ends
    with serving(fresh, "--lazy") as (_, address):
        assert "Paris" in ask_server(address)
    check_whole(fresh)
