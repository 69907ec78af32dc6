"""A second process with the same model, loaded with repacked weights, to measure against.

On some machines llama.cpp's code for them ends the process (AMX under a hypervisor that does not
allow it), so they are tried nowhere else. Both ends speak lines of JSON over a socket:

    {"task": "generate" | "read", "count": n, "depth": n, "threads": [n, n]}  ──>
                                                       <──  {"seconds": s}, first of all {}
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
from dataclasses import replace
from typing import Any

from runtime_stub.engine.bench import Bench
from runtime_stub.engine.hardware import read_hardware
from runtime_stub.engine.messages import EngineSettings, ModelSource
from runtime_stub.engine.weights import load_weights
from runtime_stub.engine.worker import StartProcess

_LOADING, _ANSWERING = 120.0, 30.0
"""Seconds to wait for it."""
GENERATE, READ = "generate", "read"


class RivalError(Exception):
    """It is gone; says how it went."""


class Rival:
    """The process, as the one that started it sees it."""

    def __init__(self, start: StartProcess) -> None:
        """Start it, and wait until it can measure. Raises RivalError."""
        self._end, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = start(theirs.fileno())
            except OSError as error:
                self._end.close()
                raise RivalError(f"it can't be started: {error.strerror}") from None
        self._lines = self._end.makefile("rb")
        self._end.settimeout(_LOADING)
        try:
            self._answer()
        except RivalError:
            self.close()
            raise
        self._end.settimeout(_ANSWERING)

    def generate(self, count: int, depth: int, threads: tuple[int, int]) -> float:
        """Seconds for `count` tokens, after `depth` others. Raises RivalError."""
        return self._ask({"task": GENERATE, "count": count, "depth": depth, "threads": threads})

    def read(self, count: int, threads: tuple[int, int]) -> float:
        """Seconds to read `count` tokens. Raises RivalError."""
        return self._ask({"task": READ, "count": count, "depth": 0, "threads": threads})

    def close(self) -> None:
        """End it."""
        self._lines.close()
        self._end.close()
        try:
            self._process.wait(1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ask(self, task: dict[str, Any]) -> float:
        with contextlib.suppress(OSError):
            self._end.sendall(json.dumps(task).encode() + b"\n")
        return float(self._answer()["seconds"])

    def _answer(self) -> dict[str, Any]:
        try:
            line = self._lines.readline()
        except OSError:
            raise RivalError("it takes too long") from None
        if not line:
            raise RivalError(self._ending())
        found: dict[str, Any] = json.loads(line)
        return found

    def _ending(self) -> str:
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            return "it does not answer"
        if code >= 0:
            return f"it ended with exit code {code}"
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return f"the processor's code for it does not run here ({name})"


def run_rival(end: socket.socket, source: ModelSource, settings: EngineSettings) -> None:
    """Load the model with repacked weights, and measure what the other end asks for, until it
    is gone. Raises EngineError."""
    hardware = read_hardware()
    wanted = replace(settings, repack=True)
    model = load_weights(source, lambda _: True, wanted, hardware.memory_available)
    bench = Bench(model, settings, hardware.physical_cores, lambda: None, lambda: False)
    bench.hurry(0)
    bench.generate(1, 16)
    with end, end.makefile("rb") as lines:
        end.sendall(b"{}\n")
        for line in lines:
            task = json.loads(line)
            bench.context.set_threads(*task["threads"])
            if task["task"] == GENERATE:
                seconds = bench.generate(task["count"], task["depth"])
            else:
                seconds = bench.read(task["count"])
            end.sendall(json.dumps({"seconds": seconds}).encode() + b"\n")
