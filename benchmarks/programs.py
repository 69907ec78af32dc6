"""The programs that are compared, and how each is started with the same settings."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.rivals import PROGRAM

QUESTION = "What is the name of the capital of France?"
_STOP_SECONDS = 10
_ANSWER_TOKENS = 8
_START_CONTEXT = 2048


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
class Program:
    """A program that serves chats over HTTP, or answers one question on standard output."""

    name: str
    command: Callable[[int, Settings], Sequence[str | Path]]
    """From port and settings; commands that answer have no use for the port."""
    files: tuple[Path, ...]
    """Files and folders that it consists of."""
    counterpart: str
    """Which program of ours it is compared with; its own name for ours."""
    serves: bool = True
    streams: int = 64
    """How many chats it can answer at once."""
    mark: bytes = b""
    """On standard output, what comes before the answer."""
    environment: Mapping[str, str] = field(default_factory=dict)


SERVE, ASK = "Satchel serve", "Satchel ask"
BRIEF = "llama-server, spinning briefly"


def satchel_serve(pack: Path) -> Program:
    """`pack serve`."""
    return Program(
        SERVE,
        lambda port, settings: [
            pack, "serve", "--port", str(port), "--parallel", str(settings.parallel),
            "--context", str(settings.context), "--threads", str(settings.threads),
        ],
        (pack,),
        SERVE,
    )  # fmt: skip


def satchel_ask(pack: Path) -> Program:
    """`pack ask`."""
    return Program(
        ASK,
        lambda _, settings: [
            pack, "ask", QUESTION, "--temperature", "0", "--max-tokens", str(_ANSWER_TOKENS),
            "--context", str(_START_CONTEXT), "--threads", str(settings.threads),
        ],
        (pack,),
        ASK,
        serves=False,
    )  # fmt: skip


def llama_server(tools: Path, model: Path, *, spins: bool = True) -> Program:
    """llama-server, with one cache for all slots and weights used as they lie in the file:
    that is how a pack runs, too. Without `spins`, its threads wait for each other as ours do."""
    return Program(
        "llama-server" if spins else BRIEF,
        lambda port, settings: [
            tools / "llama-server", "--model", model, "--port", str(port), "--offline",
            "--parallel", str(settings.parallel), "--kv-unified",
            "--ctx-size", str(settings.context),
            "--threads", str(settings.threads), "--no-repack", "--no-warmup",
        ],
        (tools, model),
        SERVE,
        environment={} if spins else {"GOMP_SPINCOUNT": "1000"},
    )  # fmt: skip


def llama_cli(tools: Path, model: Path) -> Program:
    """llama-cli, asked one question."""
    return Program(
        "llama-cli",
        lambda _, settings: [
            tools / "llama-cli", "--model", model, "--prompt", QUESTION, "--single-turn",
            "--temp", "0", "--predict", str(_ANSWER_TOKENS), "--ctx-size", str(_START_CONTEXT),
            "--threads", str(settings.threads), "--no-repack", "--no-warmup", "--simple-io",
            "--offline",
        ],
        (tools, model),
        ASK,
        serves=False,
        mark=f"> {QUESTION}\n".encode(),
    )  # fmt: skip


def python_server(python: Path, model: Path) -> Program:
    """llama_cpp.server, which answers one chat at a time."""
    return Program(
        "llama_cpp.server",
        lambda port, settings: [
            python, PROGRAM, "serve", "--model", model, "--port", str(port), "--n_ctx",
            str(settings.context), "--n_threads", str(settings.threads), "--n_threads_batch",
            str(settings.threads), "--flash_attn", "true", "--verbose", "false",
        ],
        (python.parent.parent, model),
        SERVE,
        streams=1,
    )  # fmt: skip


def one_file(path: Path) -> Program:
    """PyInstaller's one-file with the model inside, asked one question."""
    return Program(
        "PyInstaller one-file",
        lambda _, settings: [
            path, QUESTION, str(settings.threads), str(_START_CONTEXT), str(_ANSWER_TOKENS),
        ],
        (path,),
        ASK,
        serves=False,
    )  # fmt: skip


@dataclass
class Running:
    """A started program."""

    program: Program
    port: int
    process: subprocess.Popen[bytes]
    started: float
    """On time.perf_counter's clock."""

    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None


@dataclass(frozen=True)
class Place:
    """Where programs may write: the homes and caches of all of them."""

    root: Path

    @property
    def environment(self) -> dict[str, str]:
        """Tells programs so."""
        for name in ("home", "cache", "tmp"):
            (self.root / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        return {
            **os.environ,
            "HOME": str(self.root / "home"),
            "XDG_CACHE_HOME": str(self.root / "home"),
            "SATCHEL_CACHE": str(self.root / "cache"),
            "TMPDIR": str(self.root / "tmp"),
        }


@contextlib.contextmanager
def running(program: Program, settings: Settings, place: Place) -> Iterator[Running]:
    """Start a program, a server on a free port; end it, and it alone, afterwards."""
    port = _free_port() if program.serves else 0
    words = [str(word) for word in program.command(port, settings)]
    environment = {**place.environment, **program.environment}
    started = time.perf_counter()
    process = subprocess.Popen(
        words,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL if program.serves else subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(process.pid, settings.cpus)
        yield Running(program, port, process, started)
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a program with what it started: all that is in its session."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
            break
    if process.stdout is not None:
        process.stdout.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
