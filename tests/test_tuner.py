"""What a machine is fastest with: on machines that are made up, with a clock of their own, and once
on this one."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import tiny_models
from engine_fixtures import loaded

from runtime_stub.engine import comparison, tuner
from runtime_stub.engine.hardware import Hardware, read_hardware
from runtime_stub.engine.messages import EngineSettings
from runtime_stub.engine.model import Model
from runtime_stub.engine.profile import Measured, Profile
from runtime_stub.engine.rival import Rival, RivalError
from runtime_stub.engine.tuner import SECONDS, Tuner, WantedError

EIGHT = Hardware(8, 16, 1 << 40, 1 << 40)


class Machine:
    """How long things take on it, in seconds."""

    def __init__(self, noise: float = 0.0, seed: int = 1) -> None:
        self.now = 0.0
        self.noise = noise
        self.random = random.Random(seed)  # noqa: S311
        self.token = 0.01
        """To generate one with eight threads."""
        self.prompt = 0.001
        """To read one, of many."""
        self.best = 8
        """Threads that it generates fastest with; each one off costs a tenth."""
        self.best_prompt = 8
        self.best_small = 0
        """As `best_prompt`, for steps of a few tokens; 0 if it is the same."""
        self.without_flash_attention = 1.5
        """How many times as long everything takes."""
        self.batches: dict[int, float] = {}
        """How many times as long prompts take with each."""
        self.benches: list[FakeBench] = []
        self.wanted_at = float("inf")
        self.others = 0.01

    def monotonic(self) -> float:
        return self.now

    def is_wanted(self) -> bool:
        return self.now >= self.wanted_at

    def spend(self, seconds: float) -> float:
        seconds *= self.random.lognormvariate(0, self.noise)
        self.now += seconds
        return seconds


class FakeBench:
    def __init__(
        self,
        machine: Machine,
        settings: EngineSettings,
        threads: int,
        check: Callable[[], None],
    ) -> None:
        self.machine = machine
        self.context = self
        self.threads: tuple[int, ...] = (threads, threads)
        self.factor = machine.without_flash_attention if settings.flash_attention is False else 1
        self.check = check
        self.freed = False
        machine.benches.append(self)

    def set_threads(self, *threads: int) -> None:
        self.threads = threads

    def hurry(self, _slowest: float) -> None:
        pass

    def free(self) -> None:
        self.freed = True

    def generate(self, count: int, _depth: int, *, width: int = 1) -> float:
        machine = self.machine
        if width > 1:
            off = abs(self.threads[1] - (machine.best_small or machine.best_prompt))
        else:
            off = abs(self.threads[0] - machine.best)
        total = 0.0
        for _ in range(count):
            self.check()
            total += machine.spend(machine.token * self.factor * (1 + off / 10))
        return total

    def read(self, count: int, piece: int = 512) -> float:
        self.check()
        machine = self.machine
        off = abs(self.threads[1] - machine.best_prompt)
        factor = self.factor * machine.batches.get(piece, 1.0) * (1 + off / 10)
        return machine.spend(machine.prompt * count * factor)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()

    def bench(_model: Any, settings: Any, threads: int, check: Any, _stop: Any) -> FakeBench:
        return FakeBench(made, settings, threads, check)

    for module in (tuner, comparison):
        monkeypatch.setattr(module, "time", made)
    monkeypatch.setattr(tuner, "Bench", bench)
    monkeypatch.setattr(tuner, "fast_cores", lambda: 0)
    monkeypatch.setattr(tuner, "used_by_others", lambda *_: made.others)
    return made


def measured(machine: Machine, settings: EngineSettings | None = None, **more: Any) -> Measured:
    made = Tuner(
        cast("Model", None),
        settings or EngineSettings(),
        EIGHT,
        is_wanted=machine.is_wanted,
        **more,
    )
    found = made.measure()
    assert found.seconds <= SECONDS + 0.5
    assert all(bench.freed for bench in machine.benches)
    return found


def test_the_default_is_best(machine: Machine) -> None:
    found = measured(machine)
    assert found.profile == Profile()
    assert found.note == ""
    assert {trial.setting for trial in found.trials} == {
        "threads",
        "prompt_threads",
        "flash_attention",
    }
    assert not any(trial.chosen for trial in found.trials)
    assert found.generate == pytest.approx(100)
    assert found.read == pytest.approx(1000)


def test_fewer_threads_generate_faster(machine: Machine) -> None:
    machine.best = 4
    found = measured(machine)
    # And those that read stay as many as they were.
    assert found.profile == Profile(threads=4, prompt_threads=8)
    (chosen,) = (trial for trial in found.trials if trial.chosen and trial.value == 4)
    assert (chosen.setting, chosen.task) == ("threads", "generate")
    assert chosen.pairs >= 6


def test_more_threads_read_faster(machine: Machine) -> None:
    machine.best_prompt = 16
    assert measured(machine).profile == Profile(prompt_threads=16)


def test_more_threads_that_are_slow_with_few_tokens(machine: Machine) -> None:
    """They would also compute steps that generate for several requests."""
    machine.best_prompt, machine.best_small = 16, 8
    found = measured(machine)
    assert found.profile == Profile()
    assert "slower at something else" in {trial.note for trial in found.trials}


def test_without_flash_attention(machine: Machine) -> None:
    machine.without_flash_attention = 0.8
    assert measured(machine).profile == Profile(flash_attention=False)


@pytest.mark.parametrize(("size", "other"), [(256, 1024), (1024, 256)])
def test_batch(machine: Machine, size: int, other: int) -> None:
    machine.token, machine.prompt = 0.001, 0.0001
    machine.batches = {size: 0.8, other: 1.3}
    assert measured(machine).profile == Profile(batch=size)


def test_no_batches_where_prompts_are_slow(machine: Machine) -> None:
    machine.batches = {256: 0.5}
    assert measured(machine).profile == Profile()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (EngineSettings(threads=2), Profile(flash_attention=False)),
        (EngineSettings(flash_attention=True), Profile(threads=4, prompt_threads=16)),
        (EngineSettings(kv="q8_0"), Profile(threads=4, prompt_threads=16)),
        (EngineSettings(prompt_threads=3), Profile(threads=4, flash_attention=False)),
    ],
)
def test_what_somebody_decided_is_left_alone(
    machine: Machine, settings: EngineSettings, expected: Profile
) -> None:
    machine.best, machine.best_prompt, machine.without_flash_attention = 4, 16, 0.7
    if settings.threads or settings.prompt_threads:
        machine.best_prompt = 8
    found = measured(machine, settings)
    assert found.profile == expected


@pytest.mark.parametrize("noise", [0.02, 0.1, 0.3])
def test_noise_alone_chooses_nothing(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, noise: float
) -> None:
    """All alternatives are as fast as the default, on machines that are more or less busy."""
    wrong = 0
    monkeypatch.setattr(FakeBench, "set_threads", lambda *_: None)  # whatever their number
    machine.noise = noise
    machine.without_flash_attention = 1.0
    for seed in range(60):
        machine.random = random.Random(seed)  # noqa: S311
        machine.now, machine.benches = 0.0, []
        wrong += measured(machine).profile != Profile()
    assert wrong <= 2


def test_a_machine_that_is_busy_still_finds_what_is_much_better(machine: Machine) -> None:
    found = 0
    machine.noise, machine.best = 0.05, 4
    for seed in range(20):
        machine.random = random.Random(seed)  # noqa: S311
        machine.now, machine.benches = 0.0, []
        found += measured(machine).profile.threads == 4
    assert found >= 17


def test_too_slow(machine: Machine) -> None:
    machine.token, machine.prompt = 2.0, 1.0
    found = measured_late(machine)
    assert found.profile == Profile()
    assert "too slow here to be measured within" in found.note
    assert found.read == 0


def test_no_time_for_everything(machine: Machine) -> None:
    machine.token, machine.prompt = 0.2, 0.02
    found = measured_late(machine)
    assert found.note in ("", "there was no time for more")
    assert found.read > 0
    assert found.trials


def measured_late(machine: Machine) -> Measured:
    """As `measured`, where single steps take long: the last may end late."""
    return Tuner(cast("Model", None), EngineSettings(), EIGHT).measure()


@pytest.mark.parametrize("when", [0.0, 0.01, 0.3, 1.0, 2.0])
def test_somebody_wants_an_answer(machine: Machine, when: float) -> None:
    machine.wanted_at = when
    with pytest.raises(WantedError):
        measured(machine)
    assert machine.now <= when + 0.6  # one short task
    assert all(bench.freed for bench in machine.benches)


def test_a_busy_machine_says_nothing(machine: Machine) -> None:
    machine.best, machine.others = 4, 0.5
    found = measured(machine)
    assert found.profile == Profile()
    assert found.is_busy
    assert not any(trial.chosen for trial in found.trials)
    assert "other programs took 50% of the machine" in found.note


def test_progress(machine: Machine) -> None:
    seen: list[tuple[float, str]] = []
    measured(machine, on_progress=lambda now: seen.append((now.done, now.what)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[0] == (0.0, "warming up")
    assert {"threads 7", "prompt threads 16", "flash attention 0"} <= {what for _, what in seen}


class FakeRival:
    def __init__(self, machine: Machine, factor: float, *, dies: bool = False) -> None:
        self.machine, self.factor, self.dies = machine, factor, dies

    def generate(self, count: int, _depth: int, _threads: tuple[int, int]) -> float:
        if self.dies:
            raise RivalError("it is gone")
        return self.machine.spend(self.factor * count * self.machine.token)

    def read(self, count: int, _threads: tuple[int, int]) -> float:
        return self.machine.spend(self.factor * count * self.machine.prompt)


class TestRepacking:
    def tried(self, machine: Machine, factor: float, **more: Any) -> Measured:
        dies = more.pop("dies", False)
        rival = cast("Rival", FakeRival(machine, factor, dies=dies))
        return measured(machine, rival=rival, **more)

    def test_is_shown_but_not_chosen_unasked(self, machine: Machine) -> None:
        found = self.tried(machine, 0.5)
        assert found.profile == Profile()
        assert found.trials[-1].setting == "repack"
        assert found.trials[-1].gain == pytest.approx(2)
        assert "memory" in found.trials[-1].note

    def test_is_chosen_where_memory_does_not_count(self, machine: Machine) -> None:
        found = self.tried(machine, 0.5, takes_repack=True)
        assert found.profile == Profile(repack=True)

    def test_is_not_chosen_where_it_is_slower(self, machine: Machine) -> None:
        assert self.tried(machine, 1.2, takes_repack=True).profile == Profile()

    def test_ends_with_its_process(self, machine: Machine) -> None:
        found = self.tried(machine, 0.5, takes_repack=True, dies=True)
        assert found.profile == Profile()
        assert found.trials[-1].note == "it is gone"


@pytest.mark.parametrize("kind", [tiny_models.plain, tiny_models.sliding, tiny_models.hybrid])
def test_on_this_machine(kind: Callable[[Path], Path], tmp_path: Path) -> None:
    with loaded(kind(tmp_path / "model.gguf")) as model:
        hardware = replace(read_hardware(), physical_cores=1)
        started = time.monotonic()
        found = Tuner(model, EngineSettings(), hardware).measure()
        assert time.monotonic() - started < 2 * SECONDS
    assert found.seconds > 0
    assert found.is_busy or (found.generate > 0 and found.read > 0 and found.trials)
