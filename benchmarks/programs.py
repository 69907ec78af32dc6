"""The programs that are compared, and how each is started with the same settings."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_STOP_SECONDS = 10


@dataclass(frozen=True)
class Settings:
    """What all of them are told."""

    cpus: tuple[int, ...]
    """Where they run; as many threads compute."""
    context: int = 8192
    parallel: int = 8

    @property
    def threads(self) -> int:
        """Threads to compute with."""
        return len(self.cpus)


@dataclass(frozen=True)
class Server:
    """A program that serves chats over HTTP."""

    name: str
    command: Callable[[int, Settings], Sequence[str | Path]]
    """From port and settings."""
    environment: Mapping[str, str] = field(default_factory=dict)
    streams: int = 64
    """How many chats it can answer at once."""


def satchel(pack: Path, cache: Path) -> Server:
    """`pack serve`."""
    return Server(
        "Satchel",
        lambda port, settings: [
            pack, "serve", "--port", str(port), "--parallel", str(settings.parallel),
            "--context", str(settings.context), "--threads", str(settings.threads),
        ],
        {"SATCHEL_CACHE": str(cache)},
    )  # fmt: skip


def llama_server(tools: Path, model: Path, *extra: str, name: str = "llama-server") -> Server:
    """llama-server, with one cache for all slots and weights used as they lie in the file:
    that is how a pack runs, too."""
    return Server(
        name,
        lambda port, settings: [
            tools / "llama-server", "--model", model, "--port", str(port), "--offline",
            "--parallel", str(settings.parallel), "--kv-unified",
            "--ctx-size", str(settings.context),
            "--threads", str(settings.threads), "--no-repack", "--no-warmup", *extra,
        ],
    )  # fmt: skip


@dataclass
class Running:
    """A started server."""

    server: Server
    port: int
    process: subprocess.Popen[bytes]
    started: float
    """On time.perf_counter's clock."""


@contextlib.contextmanager
def running(server: Server, settings: Settings) -> Iterator[Running]:
    """Start a server on a free port; end it, and it alone, afterwards."""
    port = free_port()
    words = [str(word) for word in server.command(port, settings)]
    environment = {**os.environ, **server.environment}
    started = time.perf_counter()
    process = start(words, environment, settings)
    try:
        yield Running(server, port, process, started)
    finally:
        stop(process)


def start(
    words: Sequence[str], environment: Mapping[str, str], settings: Settings, output: int = -3
) -> subprocess.Popen[bytes]:
    """Start a program on the settings' processors, in a process group of its own."""
    process = subprocess.Popen(
        words, env=dict(environment), stdin=subprocess.DEVNULL, stdout=output,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    with contextlib.suppress(ProcessLookupError):
        os.sched_setaffinity(process.pid, settings.cpus)
    return process


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a started program, by force if it does not go by itself."""
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for member in found:
        for task in Path(f"/proc/{member}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += [int(child) for child in task.read_text().split()]
    return found
