"""Whether threads compute on cores of their own, as the kernel sees it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import tiny_models
from engine_fixtures import loaded

from runtime_stub.engine import cores
from runtime_stub.engine.context import Context, ContextSize
from runtime_stub.engine.cores import NativeCores, tell_cores
from runtime_stub.engine.hardware import cores_of_our_own
from runtime_stub.engine.library import library, native_of_processor
from runtime_stub.engine.messages import EngineSettings

TASKS = Path("/proc/self/task")
several = pytest.mark.skipif(
    sys.platform != "linux" or len(cores_of_our_own()) < 2,
    reason="there is one core, or none that is ours alone",
)


@pytest.fixture(autouse=True)
def nobody_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in cores._DECIDED_BY:
        monkeypatch.delenv(name, raising=False)


def told(
    monkeypatch: pytest.MonkeyPatch, found: tuple[tuple[int, ...], ...]
) -> tuple[int, NativeCores]:
    monkeypatch.setattr(cores, "cores_of_our_own", lambda: found)
    native = NativeCores()
    return tell_cores(ctypes.addressof(native)), native


def cpus(mask: ctypes.Array[ctypes.c_uint64]) -> set[int]:
    return {64 * word + bit for word in range(16) for bit in range(64) if mask[word] >> bit & 1}


def test_each_core_with_all_its_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    count, native = told(monkeypatch, ((0, 64), (1, 65), (3, 1023)))
    assert count == native.count == 3
    assert [cpus(native.each[place]) for place in range(3)] == [{0, 64}, {1, 65}, {3, 1023}]
    assert cpus(native.all) == {0, 1, 3, 64, 65, 1023}


@pytest.mark.parametrize("found", [(), ((5,),), ((0,), (1024,))], ids=str)
def test_nothing_to_share_out(
    monkeypatch: pytest.MonkeyPatch, found: tuple[tuple[int, ...], ...]
) -> None:
    count, native = told(monkeypatch, found)
    assert count == native.count == 0


@pytest.mark.parametrize("name", cores._DECIDED_BY)
def test_what_the_user_has_decided(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "0-1")
    assert told(monkeypatch, ((0,), (1,)))[0] == 0


@pytest.fixture
def address() -> Iterator[int]:
    library()
    address = native_of_processor("satchel_cores")
    assert address is not None
    tell_cores(address)
    yield address
    tell_cores(address)


Threads = dict[int, frozenset[int]]
"""Where each may run."""


def where_threads_may_run() -> Threads:
    """All of this process's, those of other tests included."""
    found: Threads = {}
    for task in TASKS.iterdir():
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            found[int(task.name)] = frozenset(os.sched_getaffinity(int(task.name)))
    return found


def those_on(cpus: Iterable[int], threads: Threads) -> set[int]:
    """The threads that may run on these, and on no others."""
    return {thread for thread, found in threads.items() if found == frozenset(cpus)}


class Computing:
    """A context, and where threads may run while it computes and afterwards."""

    def __init__(self, folder: Path) -> None:
        self._model = loaded(tiny_models.plain(folder / "model.gguf"))
        model = self._model.__enter__()
        self._context = Context(model, ContextSize(256, ""), EngineSettings(parallel=1), 1)
        self._position = 0
        self._meanwhile: set[frozenset[int]] = set()

        def look() -> bool:  # by the thread that called, between two operations
            self._meanwhile.add(frozenset(os.sched_getaffinity(0)))
            return False

        self._context.stop_when(look)

    def masks(self, threads: int) -> tuple[set[frozenset[int]], Threads]:
        """Of the calling thread while it computes, and of all afterwards."""
        self._context.set_threads(threads, threads)
        self._context.clear_batch()
        self._context.add(5, self._position, 0, output=True)
        self._position += 1
        self._meanwhile.clear()
        assert self._context.decode() == 0
        return self._meanwhile, where_threads_may_run()

    def close(self) -> None:
        self._context.free()
        self._model.__exit__(None, None, None)


@pytest.fixture
def computing(tmp_path: Path) -> Iterator[Computing]:
    computing = Computing(tmp_path)
    yield computing
    computing.close()


@several
def test_as_many_threads_as_cores(address: int, computing: Computing) -> None:
    all_cpus = frozenset(os.sched_getaffinity(0))
    own = [frozenset(core) for core in cores_of_our_own()]
    before = where_threads_may_run()
    meanwhile, after = computing.masks(len(own))
    assert meanwhile == {own[0]}
    # Whoever called does other things as well: nothing it starts is to inherit a single core.
    assert os.sched_getaffinity(0) == all_cpus
    # (Threads of other tests may end meanwhile.)
    assert those_on(own[0], after) <= those_on(own[0], before)
    # The others are there already, where this thread has computed before.
    assert all(those_on(core, after) for core in own[1:])
    assert NativeCores.from_address(address).count == len(own)


@several
@pytest.mark.parametrize("more", [-1, 1])
def test_other_numbers_of_threads_run_anywhere(
    address: int, computing: Computing, more: int
) -> None:
    all_cpus = frozenset(os.sched_getaffinity(0))
    count = len(cores_of_our_own())
    _, before = computing.masks(count)
    meanwhile, after = computing.masks(count + more)
    assert meanwhile == {all_cpus}
    if more > 0:  # with fewer, those that wait stay where they are
        came = those_on(all_cpus, after) - those_on(all_cpus, before)
        assert len(came) == count - 1 + more
    assert computing.masks(count)[0] == {frozenset(cores_of_our_own()[0])}


@several
def test_who_moves_the_process_decides(address: int, computing: Computing) -> None:
    """`taskset -ap`, say."""
    all_cpus, own = os.sched_getaffinity(0), cores_of_our_own()
    computing.masks(len(own))
    try:
        os.sched_setaffinity(0, own[1])
        meanwhile, _ = computing.masks(len(own))
        assert meanwhile == {frozenset(own[1])}
        assert os.sched_getaffinity(0) == set(own[1])
        assert NativeCores.from_address(address).count == 0
    finally:
        os.sched_setaffinity(0, all_cpus)
