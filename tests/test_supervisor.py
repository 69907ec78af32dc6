from __future__ import annotations

import contextlib
import itertools
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_fixtures import eventually
from running_pack import wait_for
from scripted_process import (
    AGAIN,
    DONE,
    ROOT,
    SERVE,
    Answer,
    Make,
    Scripted,
    make,
    short_pauses,
    submit,
    watched,
)

from runtime_stub.engine import pulse, supervisor
from runtime_stub.engine.dispatch import Dispatch
from runtime_stub.engine.messages import (
    EngineSettings,
    Failed,
    Finished,
    Request,
    Text,
)
from runtime_stub.engine.remote import RemoteEngine
from runtime_stub.engine.residence import Stay
from runtime_stub.engine.worker import begin

__all__ = ["make", "short_pauses", "watched"]


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
        monkeypatch.setattr(supervisor, "FIRST_PAUSE", 0.1)
        monkeypatch.setattr(supervisor, "LONGEST_PAUSE", 0.2)
        engine, scripted = make(SERVE, errors=7)
        assert engine.wait_ready(20)
        times = scripted.times
        pauses = [after - before for before, after in itertools.pairwise(times)]
        assert len(pauses) == 7
        least = [0, 0.1, 0.2, 0.2, 0.2, 0.2, 0.2]
        assert all(pause >= meant for pause, meant in zip(pauses, least, strict=True)), pauses
        assert pauses[6] < 0.1 * 2**5  # as long as it would be if it went on growing
        assert make.said[0] == "the engine can't be started: Cannot allocate memory"  # type: ignore[attr-defined]

    def test_pause_after_days_of_trying(self, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(supervisor, "LONGEST_PAUSE", 0.01)
        make(SERVE)[0]._supervisor._pause(5000)

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
        assert not engine._dispatch._requests

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

    def test_supervision_that_fails(self, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(Dispatch, "take", broken)
        engine, _ = make(SERVE)
        last = submit(engine, "a").last
        assert isinstance(last, Failed)
        assert "ZeroDivisionError" in last.message
        assert engine.status.state == "failed"


PARENT_CODE = """
import subprocess, sys, time
sys.path[:0] = [{tests!r}, {root!r}]
import scripted_process
from runtime_stub.engine.remote import RemoteEngine
from runtime_stub.engine.messages import EngineSettings
scripted = scripted_process.Scripted(scripted_process.SERVE)
engine = RemoteEngine(scripted, "model", EngineSettings())
engine.wait_ready(10)
print(scripted.processes[0].pid, flush=True)
time.sleep(60)
"""


def state_of(number: int) -> str:
    """The letter of proc(5) for what a process does. Raises OSError when there is none."""
    return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0]


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
            return state_of(number) == "Z"
        return True

    wait_for(gone, "the end of the process", 20)  # it has nothing else to end for


@contextlib.contextmanager
def endless_patience() -> Iterator[None]:
    """For processes that start: until Python has, they are silent, on a busy machine for longer
    than `watched` allows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pulse, "PATIENCE", 10**9)
        yield


@pytest.mark.usefixtures("watched")
class TestHung:
    """Processes that neither work nor end."""

    def test_one_that_is_stopped(self, make: Make) -> None:
        with endless_patience():
            engine, scripted = make(SERVE)
            assert engine.wait_ready(30)
        answer = submit(engine, "wait")
        (first,) = scripted.processes
        os.kill(first.pid, signal.SIGSTOP)
        assert answer.last == Failed(
            "engine", "the engine did not respond any more and was ended", AGAIN
        )
        with endless_patience():
            assert submit(engine, "Hello").last == DONE
        assert first.wait(5) == -signal.SIGKILL
        assert len(scripted.processes) == 2

    def test_one_that_computes_for_long(self, make: Make) -> None:
        """It answers pings, and nothing else for much longer than patience lasts."""
        with endless_patience():
            engine, scripted = make(SERVE)
            assert engine.wait_ready(30)
        answer = submit(engine, "wait")
        assert not answer.ended.wait(4)
        assert submit(engine, "Hello").last == DONE
        assert len(scripted.processes) == 1

    def test_one_whose_work_never_ends(self, make: Make) -> None:
        """Twice its time has passed, and nobody there gives the request up."""
        with endless_patience():
            engine, scripted = make(SERVE, timeout=0.4)
            assert engine.wait_ready(30)
            answer = submit(engine, "wait")
            assert answer.last == Failed(
                "engine", "the engine did not get on with a request and was ended", AGAIN
            )
            # On a busy machine the next one may take longer to start than a request may wait.
            assert eventually(lambda: submit(engine, "Hello").last == DONE, 30)
        assert len(scripted.processes) == 2

    def test_one_that_is_stopped_while_it_loads(self, make: Make) -> None:
        with endless_patience():
            engine, scripted = make("os.kill(os.getpid(), signal.SIGSTOP)", SERVE)
            answer = submit(engine, "Hello")
            wait_for(lambda: scripted.processes, "starting", 20)
            (first,) = scripted.processes
            wait_for(lambda: state_of(first.pid) == "T", "stopping", 20)
        assert first.wait(20) == -signal.SIGKILL
        with endless_patience():
            assert answer.last == DONE
        assert len(scripted.processes) == 2
