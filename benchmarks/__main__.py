"""Satchel beside what people would use instead, measured in turn in one run.

    .venv/bin/python -m benchmarks                  everything (about an hour)
    .venv/bin/python -m benchmarks --quick          few rounds, to see that it works
    .venv/bin/python -m benchmarks --only start     one group; may be given several times

Rivals are built first, once, into build.py's cache folder (about 10 minutes). The tables go
to --out as benchmarks.md and benchmarks.json. Nothing else should run on the machine: threads
of rivals that wait for each other spin, and a busy machine slows them down several times.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import build
from benchmarks import big_model, machine, prompts, report, rivals, serving, starting
from benchmarks.client import first_text
from benchmarks.measures import Measure, Results
from benchmarks.programs import (
    ASK,
    Place,
    Program,
    Running,
    Settings,
    llama_cli,
    llama_server,
    one_file,
    python_server,
    running,
    satchel_ask,
    satchel_serve,
)

GROUPS = ("throughput", "prompt", "prefix", "start", "big")
SIZE = Measure("size on disk, model included", "MB")
PACKING = Measure("making it out of the model", "s")
SMOLLM2_ENDS = (0, 2)
"""Tokens that end an answer of SmolLM2."""


@dataclass(frozen=True)
class Plan:
    """How much to measure."""

    groups: Sequence[str]
    rounds: int
    tokens: int
    settings: Settings
    work: Path
    skipped: Sequence[str]
    """Programs that are left out, by name."""

    @property
    def place(self) -> Place:
        """Where programs may write."""
        return Place(self.work / "place")


def main() -> int:
    """Measure, and write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two rounds, short answers, no 4 GB")
    parser.add_argument("--only", action="append", choices=GROUPS, metavar="NAME",
                        help=f"one of {', '.join(GROUPS)}")  # fmt: skip
    parser.add_argument("--skip", action="append", default=[], metavar="PROGRAM",
                        help="leave a program out, by its name in the table")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--cpus", type=_cpus, default=tuple(sorted(os.sched_getaffinity(0))))
    parser.add_argument("--out", type=Path, default=build.BUILD / "benchmarks")
    parser.add_argument("--work", type=Path, help="folder for models and packs; 15 GB for `big`")
    options = parser.parse_args()
    # Asked to end, it ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    groups = options.only or [name for name in GROUPS if name != "big" or not options.quick]
    started = time.monotonic()
    if options.work is not None:
        options.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="satchel-bench-", dir=options.work) as folder:
        plan = Plan(
            groups,
            2 if options.quick else options.rounds,
            16 if options.quick else 96,
            Settings(options.cpus),
            Path(folder),
            options.skip,
        )
        sections = []
        if set(groups) - {"big"}:
            sections.append(_sample(plan))
        if "big" in groups:
            sections.append(_big(plan))
    settings = (
        f"{plan.settings.threads} threads, context {plan.settings.context:,}, "
        f"{plan.settings.parallel} slots, flash attention, llama.cpp's weights not repacked, "
        f"greedy, {plan.tokens} tokens an answer."
    )
    options.out.mkdir(parents=True, exist_ok=True)
    table = report.markdown(sections, machine.description(), settings)
    (options.out / "benchmarks.md").write_text(table, encoding="utf-8")
    (options.out / "benchmarks.json").write_text(
        report.document(sections, machine.description(), settings), encoding="utf-8"
    )
    print(f"\n{table}\n{time.monotonic() - started:.0f} s; tables in {options.out}")
    return 0


def _sample(plan: Plan) -> report.Section:
    """Everything with SmolLM2."""
    results = Results()
    model = _copy(build.sample_model(), plan.work)
    tools = rivals.llama_tools()
    python = rivals.llama_python()
    pack = _pack(model, plan, results)
    programs = [
        satchel_serve(pack),
        llama_server(tools, model),
        llama_server(tools, model, spins=False),
        python_server(python, model),
    ]
    if {"throughput", "prompt", "prefix"} & set(plan.groups):
        _serve(programs, plan, results, tools, model)
    programs += [satchel_ask(pack), llama_cli(tools, model)]
    if "start" in plan.groups:
        say("-- PyInstaller's one-file")
        made = rivals.one_file(model, plan.work)
        programs.append(one_file(made.path))
        results.add(PACKING, programs[-1].name, made.seconds)
        _starts(programs, plan, results)
    return report.Section("SmolLM2 135M, Q4_1 (98 MB)", results, _counterparts(programs))


def _big(plan: Plan) -> report.Section:
    """Starts and memory with a model of 4 GB."""
    results = Results()
    model = plan.work / "big.gguf"
    say("-- a model of 4 GB, of random weights")
    big_model.write_model(model)
    tools = rivals.llama_tools()
    pack = _pack(model, plan, results)
    programs = [satchel_serve(pack), llama_server(tools, model, spins=False)]
    programs += [satchel_ask(pack), llama_cli(tools, model)]
    few = replace(plan, rounds=max(2, plan.rounds // 3))
    _starts(programs, few, results)
    with _all_running(programs[:2], plan, ()) as servers:
        serving.Bench(servers, results, plan.settings, (), few.rounds, say).memory()
    return report.Section("Random 7B, Q4_K_M (4.1 GB)", results, _counterparts(programs))


def _serve(
    programs: Sequence[Program], plan: Plan, results: Results, tools: Path, model: Path
) -> None:
    with _all_running(programs, plan, SMOLLM2_ENDS) as servers:
        bench = serving.Bench(servers, results, plan.settings, SMOLLM2_ENDS, plan.rounds, say)
        if "throughput" in plan.groups:
            say("-- throughput")
            for streams in (1, 4, 8):
                bench.throughput(streams, plan.tokens)
        if "prompt" in plan.groups:
            say("-- prompts")
            bench.reading()
            bench.llama_bench(tools, model)
        if "prefix" in plan.groups:
            say("-- long system prompts")
            bench.prefixes()
        bench.memory()


def _starts(programs: Sequence[Program], plan: Plan, results: Results) -> None:
    say("-- starts")
    programs = [program for program in programs if program.name not in plan.skipped]
    for program in programs:
        size = sum(path.stat().st_size for path in machine.files_below(*program.files))
        results.add(SIZE, program.name, size / 1e6)
    kinds = (starting.WARM, starting.COLD, starting.FIRST)
    starting.starts(
        programs, results, plan.settings, plan.place, kinds=kinds, rounds=plan.rounds, say=say
    )


@contextlib.contextmanager
def _all_running(
    programs: Sequence[Program], plan: Plan, forbidden: tuple[int, ...]
) -> Iterator[list[Running]]:
    """All servers started, and each asked once."""
    with contextlib.ExitStack() as stack:
        servers = []
        for program in programs:
            if program.name in plan.skipped:
                continue
            server = stack.enter_context(running(program, plan.settings, plan.place))
            body = prompts.chat("", "Hello", tokens=4, forbidden=forbidden)
            first_text(server.port, body, server.started, 600, server.is_alive)
            servers.append(server)
        yield servers


def _pack(model: Path, plan: Plan, results: Results) -> Path:
    say("-- packing")
    pack = plan.work / f"pack-{model.stem}"
    started = time.monotonic()
    subprocess.run([build.venv_satchel(), "pack", model, "-o", pack], check=True, stdout=-3)
    results.add(PACKING, ASK, time.monotonic() - started)
    return pack


def _copy(model: Path, work: Path) -> Path:
    """A copy that nobody else has mapped: the page cache can be made to forget it."""
    copy = work / model.name
    copy.write_bytes(model.read_bytes())
    return copy


def _counterparts(programs: Sequence[Program]) -> dict[str, str]:
    found = {program.name: program.counterpart for program in programs}
    return {serving.LLAMA_BENCH: programs[0].name, **found}


def _cpus(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def say(text: str) -> None:
    """Tell how far it is."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
