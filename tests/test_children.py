from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime_stub import children
from runtime_stub.environment import Launch

LINUX = sys.platform.startswith("linux")
pytestmark = pytest.mark.skipif(os.name == "nt", reason="the programs are shell scripts")


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    return Launch(
        descriptor=-1,
        path=tmp_path / "assistant",
        runtime=tmp_path / "runtime",
        cache_root=tmp_path / "cache",
        argv0="./assistant",
        host_environment={"PATH": str(tmp_path / "bin"), "HOST": "yes"},
    )


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def soon(path: Path) -> str:
    """What a child wrote to `path`, once it did."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if path.exists() and (text := path.read_text(encoding="utf-8")).endswith("\n"):
            return text.strip()
        time.sleep(0.01)
    pytest.fail(f"{path.name} was not written")


def test_host_programs_get_the_hosts_environment(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OURS", "secret")
    program = script(tmp_path / "program", f'echo "$HOST|$OURS|$1|$(cat)" > {tmp_path}/said')
    with children.start_host_program(launch, [str(program), "two words"]) as process:
        assert process.wait() == 0
    assert soon(tmp_path / "said") == "yes||two words|"
    assert os.getpgid(0) != process.pid


def test_host_program_that_is_not_there(launch: Launch) -> None:
    with pytest.raises(FileNotFoundError):
        children.start_host_program(launch, ["/nonexistent/editor"])


@pytest.mark.skipif(not LINUX, reason="through /proc")
def test_self_is_started_from_the_open_file(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pack that was replaced meanwhile starts its own version."""
    monkeypatch.setenv("OURS", "secret")
    path = script(tmp_path / "assistant", f'echo "old|$HOST|$OURS|$*" > {tmp_path}/said')
    descriptor = os.open(path, os.O_RDONLY)
    os.set_inheritable(descriptor, False)
    path.unlink()
    script(path, f"echo new > {tmp_path}/said")
    try:
        started = Launch(**{**vars(launch), "descriptor": descriptor})
        with children.start_self(started, ["serve", "--port", "0"]) as process:
            assert process.wait() == 0
    finally:
        os.close(descriptor)
    assert soon(tmp_path / "said") == "old|yes||serve --port 0"


@pytest.mark.skipif(not LINUX, reason="through /proc")
def test_worker_talks_over_its_socket_alone(
    launch: Launch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = "import os, sys; os.write(int(sys.argv[3]), sys.stdin.buffer.read() + b'here')"
    path = script(tmp_path / "assistant", f'echo lost; exec {sys.executable} -c "{code}" "$@"')
    ours, theirs = socket.socketpair()
    descriptor = os.open(path, os.O_RDONLY)
    number = theirs.fileno()
    with ours, theirs:
        started = Launch(**{**vars(launch), "descriptor": descriptor})
        words = ["engine", "--fd", str(number)]
        with children.start_self(started, words, socket=number) as process:
            assert os.getsid(process.pid) == process.pid
            assert process.wait() == 0
        os.close(descriptor)
        assert ours.recv(100) == b"here"
    assert capfd.readouterr() == ("", "")


END_CODE = """
import os, subprocess, sys, threading, time
code = '''
from runtime_stub.children import end_with_parent
import time
end_with_parent()
print("ready", flush=True)
time.sleep(60)
'''
child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(not LINUX, reason="asks the kernel")
def test_ends_with_its_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", END_CODE], stdout=subprocess.PIPE, text=True)
    with parent:
        assert parent.stdout is not None
        child = Path("/proc", parent.stdout.readline().strip())
        assert child.exists()
        parent.kill()
    until = time.monotonic() + 5
    # Nobody may be there to reap it.
    while child.exists() and "Z" not in (child / "stat").read_text().rsplit(")", 1)[1]:
        assert time.monotonic() < until
        time.sleep(0.01)


class TestBrowser:
    def test_first_that_is_there(
        self, launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        start = children.start_host_program
        started: list[subprocess.Popen[bytes]] = []
        monkeypatch.setattr(
            children, "start_host_program", lambda *given: started.append(start(*given))
        )
        script(tmp_path / "bin" / "firefox", f'echo "firefox $1" > {tmp_path}/said')
        script(tmp_path / "bin" / "chromium", f"echo chromium > {tmp_path}/said")
        assert children.open_browser(launch, "http://127.0.0.1:8080/")
        assert soon(tmp_path / "said") == "firefox http://127.0.0.1:8080/"
        assert [process.wait() for process in started] == [0]

    def test_next_when_one_does_not_start(
        self, launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("xdg-open", "firefox"):
            script(tmp_path / "bin" / name, "exit")
        tried: list[str] = []

        def start(_launch: Launch, command: list[str]) -> None:
            tried.append(Path(command[0]).name)
            if tried == ["xdg-open"]:
                raise OSError(8, "Exec format error")

        monkeypatch.setattr(children, "start_host_program", start)
        assert children.open_browser(launch, "http://x")
        assert tried == ["xdg-open", "firefox"]

    def test_none(self, launch: Launch) -> None:
        assert not children.open_browser(launch, "http://127.0.0.1/")


NAME_CODE = """
import sys
from pathlib import Path
from runtime_stub.children import take_pack_name
from runtime_stub.environment import Launch
take_pack_name(Launch(-1, Path(), Path(), Path(), sys.argv.pop(1), {}))
print(Path("/proc/self/comm").read_text().strip())
print(Path("/proc/self/cmdline").read_bytes().rstrip(b"\\0").split(b"\\0"))
"""


@pytest.fixture
def named() -> Callable[..., list[str]]:
    def start(*arguments: str) -> list[str]:
        command = [sys.executable, "-c", NAME_CODE, *arguments]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        return result.stdout.splitlines()

    return start


@pytest.mark.skipif(not LINUX, reason="through /proc")
def test_name(named: Callable[..., list[str]]) -> None:
    assert named("./my-assistant-with-a-long-name", "ask", "why?") == [
        "my-assistant-wi",
        "[b'./my-assistant-with-a-long-name', b'ask', b'why?']",
    ]


def test_name_elsewhere(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    children.take_pack_name(launch)  # leaves everything as it is


FORK_CODE = """
import os, signal, subprocess, sys, time
from pathlib import Path
from runtime_stub.children import fork_worker
from runtime_stub.environment import Launch
launch = Launch(-1, Path(), Path(), Path(), sys.argv[0], {})
read, write = os.pipe()
other = os.open(os.devnull, os.O_RDONLY)

def work():
    words = Path("/proc/self/cmdline").read_bytes().rstrip(b"\\0").split(b"\\0")[1:]
    opened = [int(name) for name in os.listdir("/proc/self/fd")]
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    print("lost", flush=True)
    os.write(write, repr((words, other in opened, write in opened, os.getsid(0) == os.getpid(),
                          ignored, sys.stdin.read())).encode())
    return 7

worker = fork_worker(launch, ["engine"], {write}, work)
print(worker.wait(20), os.read(read, 1000).decode())
stuck = fork_worker(launch, ["engine"], (), lambda: time.sleep(60))
try:
    stuck.wait(0.05)
except subprocess.TimeoutExpired:
    print("runs")
stuck.kill()
print(stuck.wait())
stuck.kill()
broken = fork_worker(launch, ["engine"], (), lambda: 1 // 0)
print(broken.wait(20))
"""


@pytest.mark.skipif(not LINUX, reason="through /proc")
def test_forked_worker() -> None:
    # Long enough for what is written over it.
    command = [sys.executable, "-c", FORK_CODE, "serve", "--port", "0"]
    result = subprocess.run(
        command, input="not for workers", capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.splitlines() == [
        "7 ([b'engine'], False, True, True, True, '')",
        "runs",
        "-9",
        "1",
    ]
    assert "ZeroDivisionError" in result.stderr
