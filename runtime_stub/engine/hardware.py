"""What this machine lets us use: cores and memory, within affinity and container limits."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")
_CGROUP = Path("/sys/fs/cgroup")
_NODES = Path("/sys/devices/system/node")
_PROCESSOR = Path("/proc/cpuinfo")
_USE = Path("/proc/stat")
_MOST_CPUS = 1 << 16
_FIRST_CPU = 2048
"""Bytes that /proc/cpuinfo has for one CPU, at most."""
_UNLIMITED = 1 << 60
"""cgroup v1 writes a huge number for "no limit"."""


@dataclass(frozen=True)
class Hardware:
    """Cores and memory (bytes) that this process may use now."""

    physical_cores: int
    """Distinct cores among the CPUs of our affinity mask, at most the container's quota."""
    logical_cpus: int
    memory_total: int
    memory_available: int


def read_hardware() -> Hardware:
    """Look at the machine; never fails, falls back to what Python knows."""
    cpus = _allowed_cpus()
    cores = len(_cores_of(cpus)) or 1
    quota = _cpu_quota()
    if quota is not None:
        cores = max(1, min(cores, int(quota + 0.5)))
    total, available = _memory()
    return Hardware(cores, len(cpus), total, available)


def identity(hardware: Hardware) -> dict[str, str | int | float | None]:
    """What says whether this is the machine that something was measured on."""
    return {
        "processor": _processor(),
        "cores": hardware.physical_cores,
        "cpus": hardware.logical_cpus,
        "quota": _cpu_quota(),
    }


@dataclass(frozen=True)
class Use:
    """Seconds that our CPUs have worked, for everybody and for this process, until `when`."""

    when: float
    everybody: float
    own: float


def read_use() -> Use:
    """What is counted so far; zeros where the system does not tell."""
    cpus = {f"cpu{cpu}" for cpu in _allowed_cpus()}
    ticks = 0
    for line in _read(_USE).splitlines():
        counts = line.split()
        if counts and counts[0] in cpus:
            # Without idle and iowait; with steal, the time that other virtual machines took.
            ticks += sum(map(_whole, counts[1:4])) + sum(map(_whole, counts[6:9]))
    own = os.times()
    return Use(time.monotonic(), ticks / _ticks_per_second(), own.user + own.system)


def used_by_others(before: Use, after: Use) -> float:
    """The share of our CPUs that was not this process's, from 0 to 1."""
    seconds = (after.when - before.when) * len(_allowed_cpus())
    others = after.everybody - before.everybody - (after.own - before.own)
    return max(0.0, min(1.0, others / seconds)) if seconds > 0 else 0.0


def fast_cores() -> int:
    """How many of our cores are as fast as the fastest, about; 0 if that is unknown."""
    speeds = {}
    for cpu in _allowed_cpus():
        folder = _CPUS / f"cpu{cpu}"
        speed = _number(folder / "cpu_capacity") or _number(folder / "cpufreq/cpuinfo_max_freq")
        speeds[_core_of(cpu)] = speed
    fastest = max(speeds.values(), default=0)
    return sum(speed > 0.9 * fastest for speed in speeds.values()) if fastest else 0


def cores_of_our_own() -> tuple[tuple[int, ...], ...]:
    """The CPUs of each core that we may use, where all their time may be ours; empty where a
    container grants the time of fewer cores than it shows."""
    cores = _cores_of(_allowed_cpus())
    quota = _cpu_quota()
    if quota is not None and quota < len(cores):
        return ()
    return tuple(tuple(sorted(cpus)) for cpus in sorted(cores.values(), key=min))


def numa_nodes() -> tuple[int, ...]:
    """Numbers of the memory nodes that our CPUs belong to; empty where the system has none.

    A CPU reaches its own node's memory faster than that of another.
    """
    allowed = _allowed_cpus()
    nodes = []
    for folder in _NODES.glob("node[0-9]*"):
        if folder.name[4:].isdigit() and allowed & _cpu_list(_read(folder / "cpulist")):
            nodes.append(int(folder.name[4:]))
    return tuple(sorted(nodes))


def _cpu_list(text: str) -> set[int]:
    """CPUs as the kernel writes them: "0-3,8"."""
    cpus: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first.isdigit() and (last or first).isdigit():
            cpus.update(range(int(first), min(int(last or first), _MOST_CPUS) + 1))
    return cpus


def _processor() -> str:
    """What it is called, or the facts that identify it where it has no name."""
    try:
        # The first of maybe hundreds; each that is read costs the kernel a measurement.
        with _PROCESSOR.open("rb", buffering=0) as file:
            text = (file.read(_FIRST_CPU) or b"").decode("ascii", "replace")
    except OSError:
        return ""
    lines = [line.partition(":") for line in text.splitlines()]
    facts = {key.strip(): value.strip() for key, _, value in lines}
    names = ("model name", "CPU implementer", "CPU part", "CPU variant", "uarch", "cpu")
    return " ".join(facts[name] for name in names if name in facts)


def _allowed_cpus() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _cores_of(cpus: set[int]) -> dict[tuple[str, str], set[int]]:
    """The CPUs by the core that they belong to."""
    cores: dict[tuple[str, str], set[int]] = {}
    for cpu in cpus:
        cores.setdefault(_core_of(cpu), set()).add(cpu)
    return cores


def _core_of(cpu: int) -> tuple[str, str]:
    folder = _CPUS / f"cpu{cpu}" / "topology"
    package = _read(folder / "physical_package_id")
    core = _read(folder / "core_id")
    return (package, core) if core else ("", f"cpu{cpu}")


def _cpu_quota() -> float | None:
    """CPUs' worth of time that the container grants, None without a limit."""
    quotas = []
    for folder in _cgroup_folders("cpu"):
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        if not quota:
            quota = _read(folder / "cpu.cfs_quota_us")
            period = _read(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period):
            quotas.append(int(quota) / int(period))
    return min(quotas) if quotas else None


def _memory() -> tuple[int, int]:
    facts = {}
    for line in _read(Path("/proc/meminfo")).splitlines():
        key, _, value = line.partition(":")
        number, _, unit = value.strip().partition(" ")
        if number.isdigit() and unit == "kB":
            facts[key] = int(number) * 1024
    total = facts.get("MemTotal") or _sysconf_memory()
    available = facts.get("MemAvailable", total)
    for folder in _cgroup_folders("memory"):
        limit = _number(folder / "memory.max") or _number(folder / "memory.limit_in_bytes")
        if not limit or limit >= _UNLIMITED:
            continue
        used = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes")
        # Page cache counts as used but is given back when it is needed.
        stat = dict(
            line.split(" ", 1) for line in _read(folder / "memory.stat").splitlines() if " " in line
        )
        cached = _whole(stat.get("inactive_file", "")) + _whole(stat.get("active_file", ""))
        total = min(total, limit)
        available = min(available, max(0, limit - max(0, used - cached)))
    return total, available


def _cgroup_folders(controller: str) -> list[Path]:
    """Our control groups for `controller`, from the innermost to the root (v2 and v1)."""
    folders = []
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        hierarchy, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if hierarchy == "0" and not names:
            root = _CGROUP
        elif controller in names.split(","):
            root = _CGROUP / controller
        else:
            continue
        folder = root / path.lstrip("/")
        while folder != root and root in folder.parents:
            folders.append(folder)
            folder = folder.parent
        folders.append(root)
    return folders


def _ticks_per_second() -> int:
    try:
        return os.sysconf("SC_CLK_TCK")
    except (AttributeError, ValueError, OSError):
        return 100


def _sysconf_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 4 << 30


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> int:
    return _whole(_read(path))


def _whole(text: str) -> int:
    return int(text) if text.isdigit() else 0
