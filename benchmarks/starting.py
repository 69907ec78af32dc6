"""Measurements of starts: seconds to the first token, bytes written, memory."""

from __future__ import annotations

import os
import select
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import machine, prompts
from benchmarks.client import ClientError, first_text
from benchmarks.measures import Measure, Results
from benchmarks.programs import QUESTION, Place, Program, Running, Settings, running

WARM = Measure("start to first token, page cache warm", "s")
COLD = Measure("start to first token, page cache cold", "s")
FIRST = Measure("first start ever to first token, page cache cold", "s")
WRITTEN = Measure("written to disk by the first start", "MB")
_TIMEOUT = 600.0
_FORGOTTEN = 0.01
"""Share of a program's files that may stay in the page cache where it is said to be cold."""
_PATIENCE = 5.0
"""Seconds to wait for that."""
Say = Callable[[str], None]


def starts(
    programs: Sequence[Program],
    results: Results,
    settings: Settings,
    place: Place,
    *,
    kinds: Sequence[Measure],
    rounds: int,
    say: Say,
) -> None:
    """Start each program in turn, as often as there are rounds, in each kind of start."""
    for program in programs:
        _start(program, settings, place)  # leaves on disk what a first start leaves
    for kind in kinds:
        for number in range(rounds):
            for program in programs if number % 2 == 0 else programs[::-1]:
                seconds, written = _prepared_start(kind, program, settings, place)
                results.add(kind, program.name, seconds)
                if kind is FIRST:
                    results.add(WRITTEN, program.name, written / 1e6)
            latest = ", ".join(
                f"{program.name} {results.values[kind][program.name][-1]:.2f}"
                for program in programs
            )
            say(f"   {kind.name}, round {number + 1}/{rounds}: {latest} s")


def _prepared_start(
    kind: Measure, program: Program, settings: Settings, place: Place
) -> tuple[float, int]:
    if kind is FIRST:
        shutil.rmtree(place.root)
    files = machine.files_below(*program.files, place.root)
    if kind is WARM:
        machine.warm(files)
    elif (left := _forget(files)) > _FORGOTTEN:
        raise ClientError(f"{left:.0%} of {program.name}'s files stay in the page cache")
    return _start(program, settings, place)


def _forget(files: list[Path]) -> float:
    """Empty the page cache of `files`; which part of them stays there. Processes that have just
    ended may hold them for a moment."""
    until = time.monotonic() + _PATIENCE
    while (left := machine.forget(files)) > _FORGOTTEN and time.monotonic() < until:
        time.sleep(0.2)
    return left


def _start(program: Program, settings: Settings, place: Place) -> tuple[float, int]:
    """Seconds to the first token, and bytes that are on disk then."""
    with running(program, settings, place) as started:
        if program.serves:
            body = prompts.chat("", QUESTION, tokens=8, forbidden=())
            seconds = first_text(started.port, body, started.started, _TIMEOUT, started.is_alive)
        else:
            seconds = _first_output(started)
        return seconds, machine.used(place.root)


def _first_output(started: Running) -> float:
    """Seconds until there is text on standard output behind the program's mark."""
    stdout = started.process.stdout
    assert stdout is not None
    received, mark = b"", started.program.mark
    while select.select([stdout], [], [], _TIMEOUT)[0] and (
        data := os.read(stdout.fileno(), 1 << 16)
    ):
        now = time.perf_counter()
        received += data
        if mark in received and received[received.index(mark) + len(mark) :].strip():
            return now - started.started
    raise ClientError(f"{started.program.name} gave no answer: {received[-300:]!r}")
