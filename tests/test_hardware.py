from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from runtime_stub.engine import hardware
from runtime_stub.engine.hardware import (
    Hardware,
    cores_of_our_own,
    fast_cores,
    numa_nodes,
    read_hardware,
    read_use,
    used_by_others,
)

GIB = 1 << 30
MEMINFO = f"MemTotal: {16 * GIB // 1024} kB\nMemFree: 5 kB\nMemAvailable: {8 * GIB // 1024} kB\n"


class Machine:
    """Writes a /sys and /proc of one's own, and points the module at them."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self._monkeypatch = monkeypatch
        monkeypatch.setattr(hardware, "_CPUS", root / "cpus")
        monkeypatch.setattr(hardware, "_CGROUP", root / "cgroup")
        monkeypatch.setattr(hardware, "_NODES", root / "nodes")
        real = hardware._read
        monkeypatch.setattr(
            hardware,
            "_read",
            lambda path: (
                real(root / str(path).lstrip("/")) if str(path).startswith("/proc") else real(path)
            ),
        )
        self.cpus({0: (0, 0), 1: (0, 1), 2: (0, 2), 3: (0, 3)})
        self.write("proc/meminfo", MEMINFO)
        self.write("proc/self/cgroup", "0::/a/b\n")

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def cpus(self, cores: dict[int, tuple[int, int]], allowed: set[int] | None = None) -> None:
        for cpu, (package, core) in cores.items():
            self.write(f"cpus/cpu{cpu}/topology/physical_package_id", f"{package}\n")
            self.write(f"cpus/cpu{cpu}/topology/core_id", f"{core}\n")
        affinity = set(cores) if allowed is None else allowed
        self._monkeypatch.setattr(os, "sched_getaffinity", lambda _: affinity, raising=False)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_plain(machine: Machine) -> None:
    assert read_hardware() == Hardware(4, 4, 16 * GIB, 8 * GIB)


def test_threads_of_one_core_count_once(machine: Machine) -> None:
    machine.cpus({0: (0, 0), 1: (0, 1), 2: (0, 0), 3: (0, 1), 4: (1, 0)})
    found = read_hardware()
    assert (found.physical_cores, found.logical_cpus) == (3, 5)


def test_affinity(machine: Machine) -> None:
    machine.cpus({0: (0, 0), 1: (0, 0), 2: (0, 1)}, allowed={0, 1})
    found = read_hardware()
    assert (found.physical_cores, found.logical_cpus) == (1, 2)


def test_unknown_topology(machine: Machine) -> None:
    machine.cpus({}, allowed={7, 8, 9})
    assert read_hardware().physical_cores == 3


def test_no_affinity_on_this_system(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert read_hardware().logical_cpus == 1


@pytest.mark.parametrize(
    ("where", "quota", "cores"),
    [
        ("cgroup/a/b/cpu.max", "200000 100000", 2),
        ("cgroup/a/cpu.max", "150000 100000", 2),
        ("cgroup/cpu.max", "20000 100000", 1),
        ("cgroup/a/b/cpu.max", "900000 100000", 4),
        ("cgroup/a/b/cpu.max", "max 100000", 4),
        ("cgroup/a/b/cpu.max", "100000 0", 4),
        ("cgroup/a/b/cpu.max", "nonsense", 4),
        ("cgroup/other/cpu.max", "100000 100000", 4),
    ],
)
def test_quota(machine: Machine, where: str, quota: str, cores: int) -> None:
    machine.write(where, quota)
    assert read_hardware().physical_cores == cores


def test_innermost_and_outer_quota(machine: Machine) -> None:
    machine.write("cgroup/a/b/cpu.max", "300000 100000")
    machine.write("cgroup/a/cpu.max", "200000 100000")
    assert read_hardware().physical_cores == 2


def test_version_1(machine: Machine) -> None:
    machine.write("proc/self/cgroup", "4:memory:/m\n3:cpu,cpuacct:/c\n1:name=systemd:/x\n")
    machine.write("cgroup/cpu/c/cpu.cfs_quota_us", "100000")
    machine.write("cgroup/cpu/c/cpu.cfs_period_us", "100000")
    machine.write("cgroup/cpu/cpu.cfs_quota_us", "-1")
    machine.write("cgroup/memory/m/memory.limit_in_bytes", str(2 * GIB))
    machine.write("cgroup/memory/memory.limit_in_bytes", str((1 << 63) - 4096))
    machine.write("cgroup/memory/m/memory.usage_in_bytes", str(GIB))
    assert read_hardware() == Hardware(1, 4, 2 * GIB, GIB)


def test_memory_limit_without_what_is_only_cached(machine: Machine) -> None:
    machine.write("cgroup/a/memory.max", str(4 * GIB))
    machine.write("cgroup/a/memory.current", str(3 * GIB))
    machine.write("cgroup/a/memory.stat", f"anon 1\ninactive_file {GIB}\nactive_file {GIB}\n")
    machine.write("cgroup/a/b/memory.max", "max")
    found = read_hardware()
    assert (found.memory_total, found.memory_available) == (4 * GIB, 3 * GIB)


def test_more_used_than_allowed(machine: Machine) -> None:
    machine.write("cgroup/a/memory.max", str(GIB))
    machine.write("cgroup/a/memory.current", str(2 * GIB))
    assert read_hardware().memory_available == 0


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("proc/meminfo", "MemTotal: kB\nMemAvailable: x kB\n"),
        ("proc/meminfo", ""),
        ("proc/self/cgroup", "nonsense\n0::/../../etc\n0::\n"),
        ("proc/self/cgroup", ""),
        ("cgroup/a/memory.max", "-5"),
    ],
)
def test_nonsense_is_survived(machine: Machine, name: str, text: str) -> None:
    machine.write(name, text)
    found = read_hardware()
    assert found.physical_cores == 4
    assert found.memory_total > 0


def test_nonsense_in_statistics(machine: Machine) -> None:
    machine.write("cgroup/a/memory.max", str(GIB))
    machine.write("cgroup/a/memory.stat", "inactive_file many\nactive_file\n")
    assert read_hardware().memory_available == GIB


@pytest.mark.parametrize(
    ("lists", "allowed", "expected"),
    [
        ({}, {0, 1}, ()),
        ({0: "0-3"}, {0, 1}, (0,)),
        ({0: "0-1", 1: "2-3"}, {0, 1, 2, 3}, (0, 1)),
        ({0: "0-1,8", 1: "2-3"}, {8}, (0,)),
        ({0: "0-1", 1: "2-3", 10: ""}, {2}, (1,)),
        ({0: "nonsense-", 1: "5-x,,-", 2: "3-999999999999"}, {3, 5}, (2,)),
    ],
)
def test_memory_nodes(
    machine: Machine, lists: dict[int, str], allowed: set[int], expected: tuple[int, ...]
) -> None:
    machine.cpus({}, allowed=allowed)
    for node, cpus in lists.items():
        machine.write(f"nodes/node{node}/cpulist", f"{cpus}\n")
    machine.write("nodes/possible", "0-1")
    machine.write("nodes/nodes/cpulist", "0-99")
    assert numa_nodes() == expected


def test_fast_cores(machine: Machine) -> None:
    machine.cpus({cpu: (0, cpu) for cpu in range(6)})
    assert fast_cores() == 0
    for cpu in range(6):
        speed = 5_000_000 if cpu < 2 else 4_800_000 if cpu < 4 else 3_000_000
        machine.write(f"cpus/cpu{cpu}/cpufreq/cpuinfo_max_freq", f"{speed}\n")
    assert fast_cores() == 4
    for cpu in range(6):
        machine.write(f"cpus/cpu{cpu}/cpu_capacity", f"{1024 if cpu == 0 else 400}\n")
    assert fast_cores() == 1


def test_use(machine: Machine) -> None:
    machine.cpus({}, allowed={0, 1})
    # user nice system idle iowait irq softirq steal guest guest_nice
    machine.write("proc/stat", "cpu 9 9 9 9\ncpu0 100 0 0 5 5 0 0 0 0 0\ncpu9 5000 0 0 0\n")
    before = read_use()
    machine.write("proc/stat", "cpu0 150 10 20 500 5 5 5 10 90 9\ncpu1 100 0 0 9 9 0 0 0 0 0\n")
    after = read_use()
    assert after.everybody - before.everybody == pytest.approx(2.0)
    one = dataclasses.replace(before, when=0.0, own=1.0)
    other = dataclasses.replace(after, when=2.0, own=1.5)
    assert used_by_others(one, other) == pytest.approx(1.5 / 4)
    assert used_by_others(one, one) == 0
    machine.write("proc/stat", "nonsense\n\ncpu0\n")
    assert read_use().everybody == 0


def test_this_machine() -> None:
    found = read_hardware()
    assert 1 <= found.physical_cores <= found.logical_cpus
    assert 0 < found.memory_available <= found.memory_total


def test_cores_of_our_own(machine: Machine) -> None:
    machine.cpus({0: (0, 0), 1: (0, 1), 2: (0, 0), 3: (0, 1), 4: (1, 0)}, allowed={0, 1, 2, 4})
    assert cores_of_our_own() == ((0, 2), (1,), (4,))


@pytest.mark.parametrize(("quota", "cores"), [("400000", 4), ("300000", 0), ("max", 4)])
def test_cores_whose_time_is_granted(machine: Machine, quota: str, cores: int) -> None:
    machine.write("cgroup/a/b/cpu.max", f"{quota} 100000\n")
    assert len(cores_of_our_own()) == cores
