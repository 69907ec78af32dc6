from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from engine_fixtures import eventually
from running_pack import wait_for

from runtime_stub.engine import pulse, remote
from runtime_stub.engine.engine import Engine
from runtime_stub.engine.interface import AnyEngine
from runtime_stub.engine.messages import (
    LAST_EVENTS,
    EngineSettings,
    Event,
    Failed,
    Finished,
    ModelFacts,
    PromptRead,
    Request,
    Status,
    Text,
    TokenizeRequest,
    Tokens,
    Usage,
)
from runtime_stub.engine.remote import RemoteEngine
from runtime_stub.engine.residence import Stay
from runtime_stub.engine.worker import begin
from runtime_stub.errors import EngineError, PackChangedError

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
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(remote, "_LOOK", 0.05)
    monkeypatch.setattr(remote, "_GRACE", 0.3)
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


def test_the_first_process_may_have_begun() -> None:
    scripted = Scripted(SERVE)
    engine = RemoteEngine(scripted, "model", EngineSettings(), begun=begin(scripted))
    try:
        assert engine.wait_ready(5)
        assert len(scripted.processes) == 1
        assert submit(engine, "vanish").last
        assert engine.wait_ready(5)
        assert len(scripted.processes) == 2
    finally:
        engine.close(2)


def test_one_that_has_begun_ends_even_if_it_was_never_wanted() -> None:
    scripted = Scripted(SERVE)
    begun = begin(scripted)
    engine = RemoteEngine(scripted, "model", EngineSettings(), stay=Stay(lazy=True), begun=begun)
    engine.close(2)
    assert scripted.processes[0].returncode is not None


def test_both_engines_are_one_to_the_faces() -> None:
    def check(local: Engine, distant: RemoteEngine) -> tuple[AnyEngine, AnyEngine]:
        return local, distant

    assert callable(check)


def test_nothing_of_the_engine_itself_is_imported() -> None:
    code = (
        "import sys, runtime_stub.engine.remote\n"
        "own = ('llama_cpp', 'runtime_stub.engine.engine', 'runtime_stub.engine.model')\n"
        "print([name for name in own if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert result.stdout == "[]\n"


class TestAnswers:
    def test_it_answers(self, make: Make) -> None:
        engine, _ = make(SERVE)
        # Before it is ready:
        assert list(engine.answer(HELLO)) == [Text("olleH"), DONE]
        # And after:
        assert list(engine.answer(TokenizeRequest(text="x"))) == [Tokens((1, 2, 3))]
        assert engine.status == Status("ready", 1.0)

    def test_what_the_process_is_told(self, make: Make) -> None:
        engine, _ = make(
            "assert start == Start('model', EngineSettings(parallel=3))\n" + SERVE, parallel=3
        )
        assert engine.wait_ready(5)

    def test_status_and_facts(self, make: Make) -> None:
        engine, _ = make(
            "wire.send(Status('loading', 0.5)); time.sleep(0.2)\n"
            "wire.send(ModelFacts('tiny', 1, 2, 3, 4, '', 5, '', True, False, 6, ''))\n" + SERVE
        )
        assert engine.facts is None
        assert not engine.wait_ready(0.01)
        wait_for(lambda: engine.status == Status("loading", 0.5), "progress", 5)
        assert engine.wait_ready(5)
        facts: ModelFacts | None = engine.facts
        assert facts is not None
        assert facts.description == "tiny"

    def test_many_at_once(self, make: Make) -> None:
        engine, _ = make(SERVE)
        answers = [submit(engine, f"{number:03}") for number in range(60)]
        for number, answer in enumerate(answers):
            assert answer.last == DONE
            assert answer.events[0] == Text(f"{number:03}"[::-1])

    def test_cancel(self, make: Make) -> None:
        engine, _ = make(SERVE)
        engine.wait_ready(5)
        answer = Answer()
        ticket = engine.submit(Request(text="wait"), answer)
        ticket.cancel()
        assert isinstance(answer.last, Finished)
        assert answer.last.reason == "cancelled"
        ticket.cancel()
        assert not engine._requests

    def test_cancel_while_it_waits(self, make: Make) -> None:
        """Nobody needs to wait for the engine to be told that."""
        engine, _ = make("time.sleep(0.2)\n" + SERVE)
        answer = Answer()
        ticket = engine.submit(HELLO, answer)
        ticket.cancel()
        assert [type(event) for event in answer.events] == [Finished]
        ticket.cancel()
        assert submit(engine, "a").last == DONE
        assert len(answer.events) == 1

    def test_leaving_an_answer_cancels_it(self, make: Make) -> None:
        engine, _ = make(
            "ready(); frame = wire.receive(); wire.send(PromptRead(1, 0), frame.request)\n"
            "assert wire.receive().kind is Cancel\nwire.send(done, frame.request)\n" + SERVE
        )
        events = engine.answer(HELLO)
        assert next(events) == PromptRead(1, 0)
        events.close()  # type: ignore[attr-defined]
        wait_for(lambda: not engine._requests, "the last event", 5)

    def test_request_that_can_not_travel(self, make: Make) -> None:
        engine, _ = make(SERVE)
        answer = submit(engine, "\ud800")
        assert isinstance(answer.last, Failed)
        assert answer.last.kind == "prompt"
        assert submit(engine, "a").last == DONE

    def test_queue_is_bounded(self, make: Make) -> None:
        engine, _ = make(SERVE, parallel=2, queue=3)
        answers = [submit(engine, "wait") for _ in range(6)]
        assert answers[5].events == [Failed("busy", "3 requests are waiting already", "Ask later")]
        assert not any(answer.events for answer in answers[:5])

    def test_it_waits_for_so_long(self, make: Make) -> None:
        engine, _ = make("wire.receive()", timeout=0.1)
        last = submit(engine, "a").last
        assert isinstance(last, Failed)
        assert last.kind == "timeout"

    def test_sink_that_raises(self, make: Make) -> None:
        """It costs its own request only, which is cancelled."""
        engine, scripted = make(
            "ready(); frame = wire.receive(); wire.send(Text('a'), frame.request)\n"
            "assert wire.receive().kind is Cancel\nwire.send(done, frame.request)\n" + SERVE
        )
        calls: list[Event] = []

        def sink(event: Event) -> None:
            calls.append(event)
            raise RuntimeError

        engine.submit(HELLO, sink)
        wait_for(lambda: calls == [Text("a"), DONE], "the last event", 5)
        assert submit(engine, "a").last == DONE
        assert len(scripted.processes) == 1

    def test_sink_may_use_the_engine(self, make: Make) -> None:
        engine, _ = make(SERVE)
        second = Answer()
        first = Answer()

        def sink(event: Event) -> None:
            first(event)
            if isinstance(event, Text):
                engine.submit(HELLO, second)
                ticket.cancel()

        ticket = engine.submit(HELLO, sink)
        assert first.last == DONE
        assert second.last == DONE


class TestDeath:
    @pytest.mark.parametrize(
        ("text", "number"), [("abort", signal.SIGABRT), ("vanish", signal.SIGKILL)]
    )
    def test_requests_in_flight_fail_and_the_next_is_answered(
        self, make: Make, text: str, number: int
    ) -> None:
        engine, scripted = make(SERVE)
        engine.wait_ready(5)
        waiting = submit(engine, "wait")
        answer = submit(engine, text)
        expected = Failed("engine", f"the engine stopped unexpectedly (signal {number})", AGAIN)
        assert answer.last == expected
        assert waiting.last == expected
        assert submit(engine, "again").last == DONE
        assert len(scripted.processes) == 2
        assert make.said == [expected.message]  # type: ignore[attr-defined]

    def test_client_sees_that_it_is_loading(self, make: Make) -> None:
        engine, _ = make(SERVE, "time.sleep(0.3)\n" + SERVE)
        engine.wait_ready(5)
        states: list[str] = []
        engine.submit(Request(text="vanish"), lambda _: states.append(engine.status.state))
        wait_for(lambda: states == ["loading"], "failing", 5)
        assert engine.wait_ready(5)

    def test_killed_from_outside_while_idle(self, make: Make) -> None:
        engine, scripted = make(SERVE)
        engine.wait_ready(5)
        scripted.processes[0].kill()
        wait_for(lambda: len(scripted.processes) == 2, "starting anew", 5)
        assert submit(engine, "a").last == DONE

    def test_requests_wait_for_the_next_one(self, make: Make) -> None:
        """None is lost that no process was given."""
        engine, scripted = make(
            "time.sleep(0.1); leave(3)", "os.abort()", "time.sleep(0.1); die(9)", SERVE
        )
        answers = [submit(engine, "a") for _ in range(3)]
        assert [answer.last for answer in answers] == [DONE] * 3
        assert len(scripted.processes) == 4
        assert make.said == [  # type: ignore[attr-defined]
            f"the engine stopped unexpectedly ({how})"
            for how in ("exit code 3", "signal 6", "signal 9")
        ]

    def test_pauses_grow(self, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(remote, "FIRST_PAUSE", 0.1)
        monkeypatch.setattr(remote, "LONGEST_PAUSE", 0.2)
        engine, scripted = make(SERVE, errors=5)
        assert engine.wait_ready(5)
        times = scripted.times
        pauses = [after - before for before, after in itertools.pairwise(times)]
        assert [round(pause, 1) for pause in pauses] == pytest.approx(
            [0, 0.1, 0.2, 0.2, 0.2], abs=0.11
        )
        assert pauses[0] < 0.1 <= pauses[1] < pauses[2]
        assert make.said[0] == "the engine can't be started: Cannot allocate memory"  # type: ignore[attr-defined]

    def test_pause_after_days_of_trying(self, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(remote, "LONGEST_PAUSE", 0.01)
        make(SERVE)[0]._pause(5000)

    def test_death_between_taking_a_request_and_the_first_event(self, make: Make) -> None:
        engine, _ = make("ready(); wire.receive(); end.close(); os._exit(9)", SERVE)
        last = submit(engine, "a").last
        assert isinstance(last, Failed)
        assert "exit code 9" in last.message
        assert submit(engine, "b").last == DONE

    def test_submitting_into_the_death(self, make: Make) -> None:
        """From many threads, while processes come and go: each request ends exactly once."""
        engine, _ = make(SERVE, queue=1000)
        answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()

        def work() -> None:
            for number in range(15):
                answers.put(submit(engine, "vanish" if number == 7 else "a"))
                time.sleep(0.005)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        endings = [answers.get() for _ in range(60)]
        assert all(isinstance(answer.last, (Finished, Failed)) for answer in endings)
        assert submit(engine, "a").last == DONE
        assert not engine._requests

    @pytest.mark.parametrize(
        "what",
        [
            "end.sendall(b'?' * 13)",
            "end.sendall(encode(Status('ready'))[:-1] + b'!')",
            "wire.send(Close())",
        ],
        ids=["no frame", "no message", "not for us"],
    )
    def test_nonsense(self, make: Make, what: str) -> None:
        engine, scripted = make(f"{what}; time.sleep(30)", SERVE)
        assert submit(engine, "a").last == DONE
        assert scripted.processes[0].returncode == -signal.SIGKILL

    def test_frame_cut_short_by_death(self, make: Make) -> None:
        engine, _ = make(
            "ready(); frame = wire.receive(); wire.send(Text('a'), frame.request); wire.finish(5)\n"
            "end.sendall(encode(Text('lost'), frame.request)[:-2]); os.abort()",
            SERVE,
        )
        answer = submit(engine, "a")
        assert isinstance(answer.last, Failed)
        assert answer.events[:-1] == [Text("a")]

    def test_socket_closed_by_a_process_that_lives_on(self, make: Make) -> None:
        engine, scripted = make("end.shutdown(2); time.sleep(30)", SERVE)
        assert submit(engine, "a").last == DONE
        assert scripted.processes[0].returncode == -signal.SIGKILL

    def test_events_of_unknown_requests(self, make: Make) -> None:
        engine, scripted = make("wire.send(Text('a'), 5); wire.send(done, 0)\n" + SERVE)
        assert submit(engine, "a").last == DONE
        assert len(scripted.processes) == 1


class TestFailure:
    def test_model_that_can_not_be_loaded(self, make: Make) -> None:
        engine, scripted = make("wire.send(Status('failed', message='no memory')); leave(10)")
        early = submit(engine, "a")
        assert early.last == Failed("engine", "no memory")
        with pytest.raises(EngineError, match="no memory"):
            engine.wait_ready(5)
        assert engine.status == Status("failed", message="no memory")
        assert submit(engine, "b").events == [Failed("engine", "no memory")]
        time.sleep(0.2)
        assert len(scripted.processes) == 1
        engine.close()
        assert engine.status.state == "failed"

    def test_pack_that_changed(self, make: Make) -> None:
        """Native code found out: the process ended in the middle, with a code that says so."""
        code = PackChangedError.exit_code
        engine, scripted = make(f"ready(); wire.receive(); leave({code})")
        changed = Failed("changed", PackChangedError.meaning, "Start it again")
        assert submit(engine, "a").last == changed
        assert submit(engine, "b").last == changed
        assert engine.status == Status("failed", message=f"{changed.message}. {changed.hint}")
        assert len(scripted.processes) == 1

    def test_pack_that_changed_as_the_engine_tells(self, make: Make) -> None:
        code = PackChangedError.exit_code
        engine, scripted = make(
            "ready(); frame = wire.receive()\n"
            f"wire.send(Failed('changed', 'it was'), frame.request); leave({code})"
        )
        assert submit(engine, "a").last == Failed("changed", "it was")
        wait_for(lambda: engine.status.state == "failed", "failing", 5)
        assert len(scripted.processes) == 1

    def test_engine_that_failed_in_python(self, make: Make) -> None:
        """A bug that cost all requests; another process may do better."""
        engine, scripted = make(
            "ready(); frame = wire.receive(); wire.send(Status('loading'))\n"
            "wire.send(Failed('engine', 'bug'), frame.request); time.sleep(0.1); leave(10)",
            SERVE,
        )
        assert submit(engine, "a").last == Failed("engine", "bug")
        assert submit(engine, "b").last == DONE
        assert len(scripted.processes) == 2

    def test_supervision_that_fails(self, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(RemoteEngine, "_take", broken)
        engine, _ = make(SERVE)
        last = submit(engine, "a").last
        assert isinstance(last, Failed)
        assert "ZeroDivisionError" in last.message
        assert engine.status.state == "failed"


CLOSED = Failed("closed", "the engine is shutting down")


class TestClose:
    def test_close(self, make: Make) -> None:
        engine, scripted = make(SERVE)
        engine.wait_ready(5)
        answer = submit(engine, "wait")
        engine.close()
        assert answer.events == [CLOSED]
        assert scripted.processes[0].returncode == 0
        assert engine.status.state == "closed"
        assert submit(engine, "a").events == [CLOSED]
        with pytest.raises(EngineError, match="shutting down"):
            engine.wait_ready()
        engine.close()
        assert make.said == []  # type: ignore[attr-defined]

    @pytest.mark.parametrize(
        ("script", "number"),
        [
            ("ready(); time.sleep(30)", signal.SIGTERM),
            ("signal.signal(15, signal.SIG_IGN); ready(); time.sleep(30)", signal.SIGKILL),
        ],
        ids=["deaf", "stubborn"],
    )
    def test_process_that_does_not_listen(self, make: Make, script: str, number: int) -> None:
        engine, scripted = make(script)
        engine.wait_ready(5)
        started = time.monotonic()
        engine.close(0.1)
        assert time.monotonic() - started < 2
        assert scripted.processes[0].returncode == -number

    def test_close_while_it_starts(self, make: Make) -> None:
        engine, scripted = make(SERVE)
        answer = submit(engine, "a")
        engine.close()
        assert answer.last == CLOSED
        assert [process.returncode for process in scripted.processes] == [0]

    def test_close_while_pausing(self, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(remote, "FIRST_PAUSE", 20.0)
        engine, scripted = make(SERVE, errors=2)
        answer = submit(engine, "a")
        wait_for(lambda: len(scripted.times) == 2, "a second try", 5)
        started = time.monotonic()
        engine.close()
        assert time.monotonic() - started < 1
        assert answer.last == CLOSED
        assert not scripted.processes

    def test_close_from_a_sink(self, make: Make) -> None:
        engine, _ = make(SERVE)
        events: list[Event] = []

        def sink(event: Event) -> None:
            events.append(event)
            engine.close()

        engine.submit(HELLO, sink)
        wait_for(lambda: not engine._supervisor.is_alive(), "the end", 5)
        assert events == [Text("olleH"), CLOSED]

    def test_death_while_closing_is_not_told(self, make: Make) -> None:
        engine, scripted = make("ready(); wire.receive(); os.abort()")
        engine.wait_ready(5)
        engine.close()
        assert scripted.processes[0].returncode == -signal.SIGABRT
        assert make.said == []  # type: ignore[attr-defined]
        assert engine.status.state == "closed"


PARENT_CODE = """
import subprocess, sys, time
sys.path[:0] = [{tests!r}, {root!r}]
import test_remote
from runtime_stub.engine.remote import RemoteEngine
from runtime_stub.engine.messages import EngineSettings
scripted = test_remote.Scripted(test_remote.SERVE)
engine = RemoteEngine(scripted, "model", EngineSettings())
engine.wait_ready(10)
print(scripted.processes[0].pid, flush=True)
time.sleep(60)
"""


def test_parent_that_is_killed_takes_the_process_along() -> None:
    code = PARENT_CODE.format(tests=str(ROOT / "tests"), root=str(ROOT))
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    with parent:
        assert parent.stdout is not None
        number = int(parent.stdout.readline())
        parent.kill()

    def gone() -> bool:
        with contextlib.suppress(OSError):
            # Nobody may be there to reap it.
            return "Z" in Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1]
        return True

    wait_for(gone, "the end of the process", 1)


@pytest.mark.usefixtures("watched")
class TestHung:
    """Processes that neither work nor end."""

    def test_one_that_is_stopped(self, make: Make) -> None:
        engine, scripted = make(SERVE)
        engine.wait_ready(10)
        answer = submit(engine, "wait")
        (first,) = scripted.processes
        os.kill(first.pid, signal.SIGSTOP)
        assert answer.last == Failed(
            "engine", "the engine did not respond any more and was ended", AGAIN
        )
        assert submit(engine, "Hello").last == DONE
        assert first.wait(5) == -signal.SIGKILL
        assert len(scripted.processes) == 2

    def test_one_that_computes_for_long(self, make: Make) -> None:
        """It answers pings, and nothing else for much longer than patience lasts."""
        engine, scripted = make(SERVE)
        engine.wait_ready(10)
        answer = submit(engine, "wait")
        assert not answer.ended.wait(4)
        assert submit(engine, "Hello").last == DONE
        assert len(scripted.processes) == 1

    def test_one_whose_work_never_ends(self, make: Make) -> None:
        """Twice its time has passed, and nobody there gives the request up."""
        engine, scripted = make(SERVE, timeout=0.4)
        engine.wait_ready(10)
        answer = submit(engine, "wait")
        assert answer.last == Failed(
            "engine", "the engine did not get on with a request and was ended", AGAIN
        )
        # On a busy machine the next one may take longer to start than a request may wait.
        assert eventually(lambda: submit(engine, "Hello").last == DONE, 30)
        assert len(scripted.processes) == 2

    def test_one_that_is_stopped_while_it_loads(self, make: Make) -> None:
        engine, scripted = make("os.kill(os.getpid(), signal.SIGSTOP)", SERVE)
        assert submit(engine, "Hello").last == DONE
        assert len(scripted.processes) == 2
