"""Confines this process, and tells what of that is in force."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runtime_stub.confinement import landlock, seccomp
from runtime_stub.confinement.capabilities import drop_capabilities
from runtime_stub.confinement.policy import Policy
from runtime_stub.confinement.syscalls import machine


@dataclass(frozen=True)
class Part:
    """One means of the kernel."""

    name: str
    meaning: str
    missing: str = ""
    """Why it is not in force; empty when it is."""


@dataclass(frozen=True)
class Confinement:
    """What holds a process back."""

    parts: tuple[Part, ...]

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return not any(part.missing for part in self.parts)


OFF = "it is turned off"
_POWERS = "root's powers"
_POWERS_MEANING = "no capability but to reach files"
_FILTER = "system calls"
_FILTER_MEANING = "no connection out, no new socket, no other way into the kernel"


def possible() -> Confinement:
    """What this kernel can enforce."""
    abi, why_no_files = landlock.version()
    has_filter, why_no_filter = seccomp.available()
    no_powers = "" if machine() else "this system has none that satchel knows"
    return _confinement(abi, why_no_files, no_powers, "" if has_filter else why_no_filter)


def turned_off() -> Confinement:
    """What is in force where a person wants none of it."""
    return _confinement(0, OFF, OFF, OFF)


def confine(policy: Policy) -> Confinement:
    """Hold this process, and all it will start, to `policy` from now on.

    Nothing is raised: what the kernel lacks or refuses is missing in what is returned. There
    must be no other thread yet, as file rules would not bind it.
    """
    abi, why_no_files = landlock.version()
    if abi and (others := _other_threads()):
        abi, why_no_files = 0, f"{others} threads were running already"
    if abi:
        try:
            landlock.restrict(policy.grants, abi)
        except OSError as error:
            abi, why_no_files = 0, f"the kernel refused it ({error.strerror})"
    return _confinement(abi, why_no_files, _drop(), _filter(policy))


def _drop() -> str:
    """Why capabilities could not be given up; empty when they were."""
    if not machine():
        return "this system has none that satchel knows"
    try:
        drop_capabilities()
    except OSError as error:
        return f"the kernel refused it ({error.strerror})"
    return ""


def _filter(policy: Policy) -> str:
    """Why there is no filter; empty when there is."""
    has_filter, reason = seccomp.available()
    if not has_filter:
        return reason
    try:
        seccomp.install(seccomp.program(policy.rules, machine()))
    except OSError as error:
        return f"the kernel refused it ({error.strerror})"
    return ""


def _confinement(abi: int, why_no_files: str, why_no_drop: str, why_no_filter: str) -> Confinement:
    parts = [
        Part(
            name,
            meaning,
            ""
            if since <= abi
            else why_no_files or f"the kernel's Landlock is version {abi}, this needs {since}",
        )
        for since, name, meaning in landlock.PARTS
    ]
    parts.append(Part(_POWERS, _POWERS_MEANING, why_no_drop))
    parts.append(Part(_FILTER, _FILTER_MEANING, why_no_filter))
    return Confinement(tuple(parts))


def _other_threads() -> int:
    try:
        return sum(1 for _ in Path("/proc/self/task").iterdir()) - 1
    except OSError:
        return 0
