"""An engine that measures: only when nobody asks, given up at once, and then used."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import tiny_models
from engine_fixtures import eventually

from runtime_stub.engine import measuring
from runtime_stub.engine.context import Context
from runtime_stub.engine.engine import Engine
from runtime_stub.engine.library import library
from runtime_stub.engine.messages import EngineSettings, Finished, ModelSource, Request, Sources
from runtime_stub.engine.profile import Measured, Profile
from runtime_stub.engine.tuner import Tuner, WantedError
from runtime_stub.errors import EngineError

FOUND = Measured(Profile(threads=2, prompt_threads=3, batch=64), generate=1.0, read=1.0)
ASKED = Request(text="abc", max_tokens=4)


class Shelf:
    """In memory, and willing or not."""

    def __init__(self, known: Measured | None = None, *, willing: bool = True) -> None:
        self.known = known
        self.willing = willing
        self.calls: list[str] = []

    def read(self) -> Measured | None:
        return self.known

    def begin(self) -> bool:
        self.calls.append("begin")
        return self.willing

    def give_up(self) -> None:
        self.calls.append("give up")

    def keep(self, measured: Measured) -> None:
        self.calls.append("keep")
        self.known = measured


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.plain(tmp_path_factory.mktemp("measuring") / "model.gguf")


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without other work, and little patience."""
    monkeypatch.setattr(measuring, "REST", 0.05)
    monkeypatch.setattr(measuring, "used_by_others", lambda *_: 0.0)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A measurement that takes no time."""
    monkeypatch.setattr(Tuner, "measure", lambda _: FOUND)


@contextmanager
def running(
    model: Path, shelf: Shelf | None, *, measures: bool = True, **settings: int | bool
) -> Iterator[Engine]:
    descriptor = os.open(model, os.O_RDONLY)
    source = ModelSource(descriptor, 0, model.stat().st_size)
    made = EngineSettings(256, 2, **settings)  # type: ignore[arg-type]
    engine = Engine(Sources(source), made, shelf=shelf, measures=measures)
    try:
        engine.wait_ready(60)
        yield engine
    finally:
        engine.close()
        os.close(descriptor)


def context_of(engine: Engine) -> Context:
    loaded = engine._standing.loaded
    assert loaded is not None
    assert loaded.context is not None
    return loaded.context


def threads_of(engine: Engine) -> tuple[int, int]:
    context = context_of(engine)
    llama = library()
    return (
        int(llama.llama_n_threads(context.handle)),
        int(llama.llama_n_threads_batch(context.handle)),
    )


def asked(engine: Engine) -> bool:
    return isinstance(list(engine.answer(ASKED))[-1], Finished)


@pytest.mark.usefixtures("at_once")
def test_what_was_found_is_kept_and_used(model: Path) -> None:
    shelf = Shelf()
    with running(model, shelf) as engine:
        assert eventually(lambda: "keep" in shelf.calls)
        assert eventually(lambda: threads_of(engine) == (2, 3))
        assert engine.facts is not None
        assert eventually(lambda: engine.facts is not None and engine.facts.threads == 2)
        assert asked(engine)
        time.sleep(0.2)
    assert shelf.calls == ["begin", "keep"]
    assert shelf.known == FOUND


def test_what_is_known_is_used(model: Path) -> None:
    shelf = Shelf(FOUND)
    with running(model, shelf) as engine:
        assert threads_of(engine) == (2, 3)
        assert context_of(engine).batch_size == 64
        assert asked(engine)
        time.sleep(0.2)
    assert shelf.calls == []


def test_what_somebody_chose_wins(model: Path) -> None:
    with running(model, Shelf(FOUND), threads=1) as engine:
        assert threads_of(engine) == (1, 1)


@pytest.mark.usefixtures("at_once")
def test_not_unless_told_to(model: Path) -> None:
    for shelf, measures in ((Shelf(), False), (None, True)):
        with running(model, shelf, measures=measures):
            time.sleep(0.3)
        assert shelf is None or shelf.calls == []


@pytest.mark.usefixtures("at_once")
def test_not_where_it_ended_nowhere_too_often(model: Path) -> None:
    shelf = Shelf(willing=False)
    with running(model, shelf) as engine:
        assert eventually(lambda: shelf.calls == ["begin"])
        assert asked(engine)
        time.sleep(0.3)
    assert shelf.calls == ["begin"]


@pytest.mark.usefixtures("at_once")
def test_not_while_the_machine_works_for_others(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = [0.9, 0.5, 0.0, 0.0, 0.0]
    monkeypatch.setattr(measuring, "used_by_others", lambda *_: shares.pop(0))
    shelf = Shelf()
    with running(model, shelf):
        assert eventually(lambda: "keep" in shelf.calls)
    assert shelf.calls == ["begin", "keep"]
    assert len(shares) == 2


def test_a_result_from_a_busy_machine_is_none(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Measured(Profile(), others=0.5), FOUND]
    monkeypatch.setattr(Tuner, "measure", lambda _: found.pop(0))
    shelf = Shelf()
    with running(model, shelf):
        assert eventually(lambda: "keep" in shelf.calls)
    assert shelf.calls == ["begin", "give up", "begin", "keep"]


def test_who_asks_is_answered_at_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Event()
    finds = threading.Event()

    def measure(self: Tuner) -> Measured:
        begun.set()
        while not finds.is_set():
            if self._is_wanted():
                raise WantedError
            time.sleep(0.001)
        return FOUND

    monkeypatch.setattr(Tuner, "measure", measure)
    shelf = Shelf()
    with running(model, shelf) as engine:
        for _ in range(2):
            assert begun.wait(10)
            assert asked(engine)
            begun.clear()
        finds.set()
        assert eventually(lambda: "keep" in shelf.calls)
    assert shelf.calls == ["begin", "give up", "begin", "give up", "begin", "keep"]


def test_it_ends_with_the_engine(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Event()

    def measure(self: Tuner) -> Measured:
        begun.set()
        while not self._is_wanted():
            time.sleep(0.001)
        raise WantedError

    monkeypatch.setattr(Tuner, "measure", measure)
    shelf = Shelf()
    with running(model, shelf) as engine:
        assert begun.wait(10)
        started = time.monotonic()
        engine.close()
        assert time.monotonic() - started < 5
    assert shelf.calls == ["begin", "give up"]


@pytest.mark.parametrize("error", [EngineError("no memory"), ZeroDivisionError()])
def test_what_can_not_be_measured_stays_as_it_is(
    model: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def measure(_: Tuner) -> Measured:
        raise error

    monkeypatch.setattr(Tuner, "measure", measure)
    shelf = Shelf()
    with running(model, shelf) as engine:
        assert eventually(lambda: "keep" in shelf.calls)
        assert asked(engine)
    assert shelf.known is not None
    assert shelf.known.profile == Profile()
    assert shelf.known.note


def test_a_real_measurement_changes_no_answer(model: Path) -> None:
    shelf = Shelf()
    wanted = Request(text="abcdef", max_tokens=20)
    with running(model, None, threads=1) as engine:
        expected = [type(event) for event in engine.answer(wanted)]
    with running(model, shelf) as engine:
        assert eventually(lambda: "begin" in shelf.calls)
        assert [type(event) for event in engine.answer(wanted)][-1] == expected[-1]
