"""When the process of an engine is there, and when not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from engine_fixtures import eventually
from scripted_process import AGAIN, DONE, HELLO, SERVE, Answer, Made, Make, Scripted, submit

from runtime_stub.engine import pulse, supervisor
from runtime_stub.engine.messages import EngineSettings, Failed, Finished, Status, Text
from runtime_stub.engine.remote import RemoteEngine
from runtime_stub.engine.residence import Residence, Stay


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(supervisor, "LOOK", 0.05)
    # Looks are short here, and a process is silent until Python has started.
    monkeypatch.setattr(pulse, "PING_AFTER", 10**9)
    monkeypatch.setattr(pulse, "PATIENCE", 10**9)


@pytest.fixture
def said() -> list[str]:
    """What was told of processes that ended unasked."""
    return []


@pytest.fixture
def make(said: list[str]) -> Iterator[Make]:
    made: list[Made] = []

    def start(stay: Stay, *scripts: str, **settings: float) -> Made:
        scripted = Scripted(*scripts or (SERVE,))
        options = EngineSettings(**settings)  # type: ignore[arg-type]
        engine = RemoteEngine(scripted, "model", options, on_stop=said.append, stay=stay)
        made.append((engine, scripted))
        return made[-1]

    yield start
    for engine, scripted in made:
        engine.close(2)
        assert not engine._supervisor.is_alive()
        assert all(process.returncode is not None for process in scripted.processes)


def is_in(engine: RemoteEngine, state: str) -> Callable[[], bool]:
    return lambda: engine.status.state == state


class TestLazy:
    def test_nothing_starts_before_it_is_asked(self, make: Make) -> None:
        engine, scripted = make(Stay(lazy=True))
        time.sleep(0.2)
        assert (engine.status, scripted.processes) == (Status("unloaded"), [])
        assert list(engine.answer(HELLO)) == [Text("olleH"), DONE]
        assert len(scripted.processes) == 1

    def test_loaded_without_a_request(self, make: Make) -> None:
        engine, _ = make(Stay(lazy=True))
        engine.load()
        assert eventually(is_in(engine, "ready"))

    def test_waiting_for_it_loads_it(self, make: Make) -> None:
        engine, _ = make(Stay(lazy=True))
        assert engine.wait_ready(10)

    def test_closed_before_it_was_ever_asked(self, make: Make) -> None:
        engine, scripted = make(Stay(lazy=True))
        engine.close(2)
        assert submit(engine, "Hello").last == Failed("closed", "the engine is shutting down")
        assert scripted.processes == []

    def test_one_that_died_comes_back_when_it_is_asked(self, make: Make, said: list[str]) -> None:
        engine, scripted = make(Stay(lazy=True))
        died = submit(engine, "vanish").last
        assert isinstance(died, Failed)
        assert died.hint == AGAIN
        assert eventually(is_in(engine, "unloaded"))
        assert len(said) == 1
        assert list(engine.answer(HELLO))[-1] == DONE
        assert len(scripted.processes) == 2


class TestUnload:
    def test_it_comes_back(self, make: Make, said: list[str]) -> None:
        engine, scripted = make(Stay())
        assert engine.wait_ready(10)
        for times in range(1, 3):
            engine.unload()
            assert eventually(is_in(engine, "unloaded"))
            assert eventually(lambda: scripted.processes[-1].poll() == 0)
            assert list(engine.answer(HELLO)) == [Text("olleH"), DONE]
            assert len(scripted.processes) == times + 1
        assert said == []

    def test_what_runs_ends_first(self, make: Make) -> None:
        engine, scripted = make(Stay())
        assert engine.wait_ready(10)
        running = Answer()
        ticket = engine.submit(HELLO.__class__(text="wait"), running)
        engine.unload()
        later = submit(engine, "later")
        time.sleep(0.2)
        assert engine.status.state == "ready"
        assert len(scripted.processes) == 1
        ticket.cancel()
        assert running.last == Finished("cancelled", DONE.usage)
        assert later.last == DONE
        assert len(scripted.processes) == 2  # what came later was for the next one

    def test_twice_is_once(self, make: Make) -> None:
        engine, scripted = make(Stay())
        assert engine.wait_ready(10)
        engine.unload()
        engine.unload()
        assert eventually(is_in(engine, "unloaded"))
        engine.unload()
        assert list(engine.answer(HELLO))[-1] == DONE
        time.sleep(0.2)
        assert (engine.status.state, len(scripted.processes)) == ("ready", 2)

    def test_while_it_loads(self, make: Make) -> None:
        engine, _ = make(Stay(), "time.sleep(0.3)\n" + SERVE)
        held = submit(engine, "Hello")
        engine.unload()
        assert held.last == DONE
        assert eventually(is_in(engine, "unloaded"))

    def test_death_on_the_way_out(self, make: Make) -> None:
        engine, _ = make(Stay(), "ready()\nwhile wire.receive().kind is not Close: pass\nleave(9)")
        assert engine.wait_ready(10)
        engine.unload()
        assert eventually(is_in(engine, "unloaded"))
        assert engine._supervisor.is_alive()


class TestIdle:
    def test_unloads_after_a_while(self, make: Make) -> None:
        engine, scripted = make(Stay(idle=0.3))
        assert engine.wait_ready(10)
        assert eventually(is_in(engine, "unloaded"))
        assert list(engine.answer(HELLO))[-1] == DONE
        assert eventually(is_in(engine, "unloaded"))
        assert eventually(lambda: [p.poll() for p in scripted.processes] == [0, 0])

    def test_work_is_not_idleness(self, make: Make) -> None:
        engine, scripted = make(Stay(idle=0.1))
        running = Answer()
        ticket = engine.submit(HELLO.__class__(text="wait"), running)
        assert eventually(is_in(engine, "ready"))
        time.sleep(0.4)
        assert engine.status.state == "ready"
        ticket.cancel()
        assert running.last == Finished("cancelled", DONE.usage)
        assert len(scripted.processes) == 1

    def test_changed_while_it_runs(self, make: Make) -> None:
        engine, _ = make(Stay())
        assert engine.wait_ready(10)
        engine.unload_after(0.1)
        assert eventually(is_in(engine, "unloaded"))
        engine.unload_after(None)
        assert engine.wait_ready(10)
        time.sleep(0.3)
        assert engine.status.state == "ready"

    def test_what_was_said_holds_for_one_stay(self, make: Make) -> None:
        """A request that shall leave nothing in memory says nothing of those after it."""
        engine, scripted = make(Stay())
        assert engine.wait_ready(10)
        running = Answer()
        ticket = engine.submit(HELLO.__class__(text="wait"), running)
        engine.unload_after(0.0)
        time.sleep(0.2)
        assert engine.status.state == "ready"
        ticket.cancel()
        assert running.last == Finished("cancelled", DONE.usage)
        assert eventually(is_in(engine, "unloaded"))
        assert engine.unloads_in is None
        assert list(engine.answer(HELLO))[-1] == DONE
        time.sleep(0.3)
        assert (engine.status.state, len(scripted.processes)) == ("ready", 2)

    def test_then_it_is_as_it_was_started(self, make: Make) -> None:
        engine, _ = make(Stay(idle=300))
        assert engine.wait_ready(10)
        engine.unload_after(None)
        assert list(engine.answer(HELLO))[-1] == DONE
        assert engine.unloads_in is None  # until it leaves, it stays for those who say nothing
        engine.unload()
        assert eventually(is_in(engine, "unloaded"))
        assert list(engine.answer(HELLO))[-1] == DONE
        assert 290 < (engine.unloads_in or 0) <= 300

    def test_it_leaves_at_once_where_it_may_not_be_idle(
        self, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(supervisor, "LOOK", 60.0)
        engine, _ = make(Stay())
        assert engine.wait_ready(10)
        answer = Answer()
        ticket = engine.submit(HELLO.__class__(text="wait"), answer)
        engine.unload_after(0.0)  # it is to be known when the answer ends
        ticket.cancel()
        assert eventually(is_in(engine, "unloaded"), 10)


class TestTurns:
    def test_two_that_do_not_fit_together(self, make: Make) -> None:
        residence = Residence(100)
        (first, firsts), (second, seconds) = (
            make(Stay(residence, 60)),
            make(Stay(residence, 60, lazy=True)),
        )
        assert first.wait_ready(10)
        for _ in range(2):
            assert list(second.answer(HELLO))[-1] == DONE
            assert eventually(is_in(first, "unloaded"))
            assert firsts.processes[-1].poll() == 0
            assert list(first.answer(HELLO))[-1] == DONE
            assert eventually(is_in(second, "unloaded"))
        assert (len(firsts.processes), len(seconds.processes)) == (3, 2)

    def test_many_clients_of_two_models(self, make: Make) -> None:
        residence = Residence(100)
        engines = [make(Stay(residence, 60, lazy=True))[0] for _ in range(2)]
        answers = [submit(engines[number % 2], "Hello") for number in range(40)]
        assert all(isinstance(answer.last, Finished) for answer in answers)

    def test_one_that_waits_for_room_is_held_and_can_be_cancelled(self, make: Make) -> None:
        residence = Residence(100)
        (first, _), (second, seconds) = (
            make(Stay(residence, 60)),
            make(Stay(residence, 60, lazy=True), timeout=0.2),
        )
        assert first.wait_ready(10)
        running = Answer()
        first.submit(HELLO.__class__(text="wait"), running)
        late = submit(second, "Hello").last
        assert isinstance(late, Failed)
        assert late.kind == "timeout"
        assert seconds.processes == []
        assert eventually(is_in(second, "unloaded"))

    def test_a_model_that_failed_gives_its_room_back(self, make: Make) -> None:
        residence = Residence(100)
        broken, _ = make(Stay(residence, 60), "wire.send(Status('failed', 0.0, 'no'))\nleave(10)")
        assert eventually(is_in(broken, "failed"))
        sound, _ = make(Stay(residence, 60, lazy=True))
        assert list(sound.answer(HELLO))[-1] == DONE

    def test_closed_while_it_waits_for_room(self, make: Make) -> None:
        residence = Residence(100)
        (first, _), (second, _) = (
            make(Stay(residence, 60)),
            make(Stay(residence, 60, lazy=True)),
        )
        assert first.wait_ready(10)
        first.submit(HELLO.__class__(text="wait"), Answer())
        held = submit(second, "Hello")
        threading.Timer(0.1, second.close).start()
        assert held.last == Failed("closed", "the engine is shutting down")
