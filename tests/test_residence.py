from __future__ import annotations

import threading
import time

import pytest

from runtime_stub.engine.residence import Residence


class Model:
    """A tenant that leaves when it is told to, unless it is busy."""

    def __init__(self, residence: Residence, need: int, *, busy: bool = False) -> None:
        self.residence = residence
        self.need = need
        self.busy = busy
        self.used = time.monotonic()
        self.asked = 0

    @property
    def last_used(self) -> float:
        return float("inf") if self.busy else self.used

    def unload(self) -> None:
        self.asked += 1
        if not self.busy:
            self.residence.leave(self)

    def enter(self, timeout: float = 0.0) -> bool:
        return self.residence.enter(self, timeout)


@pytest.fixture
def residence() -> Residence:
    return Residence(100)


def test_what_fits_stays(residence: Residence) -> None:
    models = [Model(residence, need) for need in (50, 30, 20)]
    assert all(model.enter() for model in models)
    assert all(model.enter() for model in models)  # they are there already
    assert not any(model.asked for model in models)


def test_too_large_for_the_machine_enters_alone(residence: Residence) -> None:
    small, huge = Model(residence, 10), Model(residence, 1000)
    assert small.enter()
    assert huge.enter()
    assert small.asked == 1
    assert small.enter()
    assert huge.asked == 1


def test_the_least_recently_used_leave(residence: Residence) -> None:
    first, second, third = (Model(residence, 30) for _ in range(3))
    assert first.enter()
    assert second.enter()
    assert third.enter()
    first.used = time.monotonic()
    last = Model(residence, 60)
    assert last.enter()
    assert (first.asked, second.asked, third.asked) == (0, 1, 1)


def test_idle_ones_leave_before_busy_ones(residence: Residence) -> None:
    busy, idle = Model(residence, 60, busy=True), Model(residence, 40)
    assert busy.enter()
    assert idle.enter()
    assert Model(residence, 40).enter()
    assert (busy.asked, idle.asked) == (0, 1)


def test_nobody_leaves_in_the_middle_of_work(residence: Residence) -> None:
    busy, other = Model(residence, 60, busy=True), Model(residence, 60)
    assert busy.enter()
    assert not other.enter()
    assert not other.enter()
    assert busy.asked == 2
    busy.busy = False
    residence.leave(busy)
    assert other.enter()


def test_who_waits_longest_enters_first(residence: Residence) -> None:
    busy = Model(residence, 100, busy=True)
    first, second = Model(residence, 100), Model(residence, 10)
    assert busy.enter()
    assert not first.enter()
    assert not second.enter()  # though it is small, it would always come before the first
    residence.leave(busy)
    assert not second.enter()
    assert first.enter()


def test_who_gives_up_is_in_nobodys_way(residence: Residence) -> None:
    busy = Model(residence, 60, busy=True)
    first, second = Model(residence, 100), Model(residence, 40)
    assert busy.enter()
    assert not first.enter()
    residence.leave(first)
    assert second.enter()


def test_waiting_ends_with_the_departure(residence: Residence) -> None:
    busy, other = Model(residence, 100, busy=True), Model(residence, 100)
    assert busy.enter()
    threading.Timer(0.05, lambda: residence.leave(busy)).start()
    started = time.monotonic()
    assert other.enter(10)
    assert time.monotonic() - started < 5


def test_many_at_once_never_exceed_the_capacity(residence: Residence) -> None:
    lock = threading.Lock()
    taken = most = turns = 0

    def live(model: Model) -> None:
        nonlocal taken, most, turns
        for _ in range(20):
            while not model.enter(0.01):
                pass
            with lock:
                model.busy = True
                taken += model.need
                most = max(most, taken)
                turns += 1
            with lock:
                taken -= model.need
                model.busy = False
            residence.leave(model)

    threads = [
        threading.Thread(target=live, args=(Model(residence, need, busy=True),))
        for need in (30, 40, 50, 60)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert turns == 80
    assert 0 < most <= 100
