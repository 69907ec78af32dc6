"""Engines in processes that play a part: what their processes are made of, and what they say."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime_stub.engine import pulse, supervisor
from runtime_stub.engine.messages import (
    LAST_EVENTS,
    EngineSettings,
    Event,
    Finished,
    Request,
    Usage,
)
from runtime_stub.engine.remote import RemoteEngine

ROOT = Path(__file__).resolve().parent.parent
HELLO = Request(text="Hello")
DONE = Finished("stop", Usage(1, 0, 1, 0.0, 0.0))
AGAIN = "Ask again; it is starting anew"

# What the scripted processes are made of: each plays the part of the engine's process.
PRELUDE = """
import os, signal, socket, sys, time
from runtime_stub.engine.messages import *
from runtime_stub.engine.wire import *
end = socket.socket(fileno=int(sys.argv[1]))
wire = Connection(end)
start = wire.receive().message()
done = Finished("stop", Usage(1, 0, 1, 0.0, 0.0))

def ready():
    wire.send(Status("ready", 1.0))

def die(number):
    wire.finish(5)
    os.kill(os.getpid(), number)

def leave(code):
    wire.finish(5)
    os._exit(code)

def serve():
    ready()
    while (frame := wire.receive()).kind is not Close:
        if frame.kind is Ping:
            wire.send(Ping())
        elif frame.kind is TokenizeRequest:
            wire.send(Tokens((1, 2, 3)), frame.request)
        elif frame.kind is Cancel:
            wire.send(Finished("cancelled", done.usage), frame.request)
        elif frame.message().text == "abort":
            wire.send(Text("I "), frame.request)
            die(signal.SIGABRT)
        elif frame.message().text == "vanish":
            die(signal.SIGKILL)
        elif frame.message().text != "wait":
            wire.send(Text(frame.message().text[::-1]), frame.request)
            wire.send(done, frame.request)
    leave(0)
"""
SERVE = "serve()"


class Scripted:
    """Starts a process for each script in turn; the last one again and again."""

    def __init__(self, *scripts: str) -> None:
        self._scripts = scripts
        self.processes: list[subprocess.Popen[bytes]] = []
        self.times: list[float] = []
        self.errors = 0
        """How many starts fail at first."""

    def __call__(self, descriptor: int) -> subprocess.Popen[bytes]:
        self.times.append(time.monotonic())
        if self.errors:
            self.errors -= 1
            raise OSError(12, "Cannot allocate memory")
        script = self._scripts[min(len(self.processes), len(self._scripts) - 1)]
        self.processes.append(
            subprocess.Popen(
                [sys.executable, "-c", PRELUDE + script, str(descriptor)],
                pass_fds=(descriptor,),
                stdin=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        )
        return self.processes[-1]


class Answer:
    """A sink, and what it got."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.ended = threading.Event()

    def __call__(self, event: Event) -> None:
        assert not self.ended.is_set()
        self.events.append(event)
        if isinstance(event, LAST_EVENTS):
            self.ended.set()

    @property
    def last(self) -> Event:
        assert self.ended.wait(20), self.events
        return self.events[-1]


Made = tuple[RemoteEngine, Scripted]
Make = Callable[..., Made]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(supervisor, "LOOK", 0.05)
    monkeypatch.setattr(supervisor, "GRACE", 0.3)
    # Most scripts expect no pings, and looks are short here.
    monkeypatch.setattr(pulse, "PING_AFTER", 10**9)
    monkeypatch.setattr(pulse, "PATIENCE", 10**9)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent process is given up after two seconds."""
    monkeypatch.setattr(pulse, "PING_AFTER", 5)
    monkeypatch.setattr(pulse, "PATIENCE", 40)


@contextlib.contextmanager
def running_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop in a thread of its own."""
    loop = asyncio.SelectorEventLoop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture(params=["thread", "loop"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Makes engines, whose sinks are called in a thread or in an event loop."""
    with contextlib.ExitStack() as around:
        loop = around.enter_context(running_loop()) if request.param == "loop" else None
        yield from made_in(loop)


def made_in(loop: asyncio.AbstractEventLoop | None) -> Iterator[Make]:
    made: list[Made] = []

    def start(*scripts: str, errors: int = 0, **settings: float) -> Made:
        scripted = Scripted(*scripts)
        scripted.errors = errors
        options = EngineSettings(**settings)  # type: ignore[arg-type]
        engine = RemoteEngine(scripted, "model", options, on_stop=said.append)
        engine.listen_in(loop)
        made.append((engine, scripted))
        return made[-1]

    said: list[str] = []
    start.said = said  # type: ignore[attr-defined]
    yield start
    for engine, scripted in made:
        engine.close(2)
        assert not engine._supervisor.is_alive()
        assert all(process.returncode is not None for process in scripted.processes)


def submit(engine: RemoteEngine, text: str) -> Answer:
    answer = Answer()
    engine.submit(Request(text=text), answer)
    return answer
