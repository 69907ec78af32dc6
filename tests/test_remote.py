from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from running_pack import wait_for
from scripted_process import (
    DONE,
    HELLO,
    ROOT,
    SERVE,
    Make,
    make,
    short_pauses,
    submit,
)

from runtime_stub.engine import supervisor
from runtime_stub.engine.engine import Engine
from runtime_stub.engine.interface import AnyEngine
from runtime_stub.engine.messages import (
    Event,
    Failed,
    ModelFacts,
    Status,
    Text,
    TokenizeRequest,
    Tokens,
)
from runtime_stub.engine.remote import RemoteEngine
from runtime_stub.errors import EngineError, PackChangedError

__all__ = ["make", "short_pauses"]


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

    def test_status_and_facts(self, make: Make, tmp_path: Path) -> None:
        seen = tmp_path / "seen"
        engine, _ = make(
            "wire.send(Status('loading', 0.5))\n"
            f"while not os.path.exists({str(seen)!r}): time.sleep(0.01)\n"
            "wire.send(ModelFacts('tiny', 1, 2, 3, 4, '', 5, '', True, False, 6, ''))\n" + SERVE
        )
        assert engine.facts is None
        assert not engine.wait_ready(0.01)
        wait_for(lambda: engine.status == Status("loading", 0.5), "progress", 20)
        seen.touch()
        assert engine.wait_ready(20)
        facts: ModelFacts | None = engine.facts
        assert facts is not None
        assert facts.description == "tiny"

    def test_many_at_once(self, make: Make) -> None:
        engine, _ = make(SERVE)
        answers = [submit(engine, f"{number:03}") for number in range(60)]
        for number, answer in enumerate(answers):
            assert answer.last == DONE
            assert answer.events[0] == Text(f"{number:03}"[::-1])

    def test_request_that_can_not_travel(self, make: Make) -> None:
        engine, _ = make(SERVE)
        answer = submit(engine, "\ud800")
        assert isinstance(answer.last, Failed)
        assert answer.last.kind == "prompt"
        assert submit(engine, "a").last == DONE


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
        wait_for(lambda: scripted.processes, "starting", 20)
        engine.close()
        assert answer.last == CLOSED
        assert [process.returncode for process in scripted.processes] == [0]

    def test_close_while_pausing(self, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(supervisor, "FIRST_PAUSE", 20.0)
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
