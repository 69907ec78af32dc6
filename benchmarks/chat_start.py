"""How long a chat lets a person wait: until its prompt takes what is typed. Prints a table.

    .venv/bin/python benchmarks/chat_start.py dist/smollm2
    .venv/bin/python benchmarks/chat_start.py dist/smollm2 --against OTHER

In a real pseudo-terminal, with a warm cache. "taken" is when the first key, typed as soon as
the prompt is there, is shown; "editor" when the full editor has taken over. With another pack
the start of `ask` is measured, too: both in turn, so that what else the machine does meets both.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import signal
import statistics
import struct
import subprocess
import tempfile
import termios
import time
from collections.abc import Mapping
from pathlib import Path

ASK = [
    "ask",
    "What is the name of the capital of France?",
    "--temperature",
    "0",
    "--max-tokens",
    "1",
]
EDITOR = b"Ask anything"
"""What the editor shows in an empty line, and nothing else does."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("pack", type=Path)
    parser.add_argument("--against", type=Path, metavar="PACK")
    parser.add_argument("--runs", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "SATCHEL_CACHE": f"{folder}/cache",
            "HOME": folder,
            "TERM": "xterm-256color",
        }
        packs = [path.resolve() for path in (options.pack, options.against) if path is not None]
        for pack in packs:
            ask(pack, environment)
        taken = [first_key(packs[0], environment) for _ in range(options.runs)]
        editor = [editor_ready(packs[0], environment) for _ in range(options.runs)]
        print(f"chat, median of {options.runs} (fastest to slowest), after the process started:")
        show("first key is taken", taken)
        show("editor has taken over", editor)
        if len(packs) == 2:
            times = [[ask(pack, environment) for pack in packs] for _ in range(2 * options.runs)]
            print(f"\nask, one token, median of {len(times)}, in turn:")
            for pack, column in zip(packs, zip(*times, strict=True), strict=True):
                show(str(pack), list(column))
            differences = [(new - old) * 1e3 for new, old in times]
            print(f"  difference {statistics.median(differences):+.0f} ms, median of the pairs")


def show(label: str, seconds: list[float]) -> None:
    low, high = min(seconds), max(seconds)
    print(f"  {label:<24} {statistics.median(seconds):.3f} s  ({low:.3f} to {high:.3f})")


def first_key(pack: Path, environment: Mapping[str, str]) -> float:
    """Seconds until a key, typed when the prompt has come, is seen behind it."""
    started, process, terminal = start(pack, environment)
    read_until(terminal, b"> ")
    os.write(terminal, b"x")
    read_until(terminal, b"x")
    return end(started, process, terminal)


def editor_ready(pack: Path, environment: Mapping[str, str]) -> float:
    """Seconds until the editor shows its own empty line."""
    started, process, terminal = start(pack, environment)
    read_until(terminal, EDITOR)
    return end(started, process, terminal)


def start(pack: Path, environment: Mapping[str, str]) -> tuple[float, int, int]:
    started = time.perf_counter()
    process, terminal = pty.fork()
    if process == 0:
        os.execve(pack, [str(pack), "chat"], dict(environment))  # noqa: S606
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    return started, process, terminal


def read_until(terminal: int, wanted: bytes) -> None:
    data = b""
    while wanted not in data:
        data += os.read(terminal, 65536)


def end(started: float, process: int, terminal: int) -> float:
    seconds = time.perf_counter() - started
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    os.close(terminal)
    return seconds


def ask(pack: Path, environment: Mapping[str, str]) -> float:
    started = time.perf_counter()
    subprocess.run(
        [str(pack), *ASK], env=dict(environment), check=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
