"""What a pack costs beside its model: size, start, memory, disk. Prints a table.

    .venv/bin/python benchmarks/footprint.py dist/smollm2

Everything is measured on this machine in one run, the two sides of a ratio in turn. The
figures are whole processes, by the operating system's own accounting.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

PROMPT = [
    "ask",
    "What is the name of the capital of France?",
    "--temperature",
    "0",
    "--context",
    "2048",
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("pack", type=Path)
    parser.add_argument("--runs", type=int, default=20)
    options = parser.parse_args()
    pack: Path = options.pack.resolve()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        environment = {**os.environ, "SATCHEL_CACHE": str(work / "cache"), "HOME": str(work)}
        model = work / "model.gguf"
        run(["satchel", "unpack", pack, "-o", model], environment)
        print(f"pack {pack.stat().st_size:,} bytes, model {model.stat().st_size:,} bytes")
        print(f"pack minus model: {(pack.stat().st_size - model.stat().st_size) / 1e6:.1f} MB\n")
        first = timed(lambda: run([pack, "--version"], environment))
        print(f"first start (unpacks the runtime): {first * 1e3:.0f} ms")
        print(f"written to disk by it: {used(work / 'cache') / 1e6:.1f} MB\n")
        launcher_overhead(pack, environment, options.runs)
        warm_writes(pack, work, environment)
        memory(pack, model, work, environment, max(3, options.runs // 4))


def launcher_overhead(pack: Path, environment: Mapping[str, str], runs: int) -> None:
    """The pack against the extracted runtime, started directly as the launcher starts it."""
    runtime = next(
        path for path in Path(environment["SATCHEL_CACHE"], "runtimes").iterdir() if path.is_dir()
    )
    internal, program = runtime / "_internal", runtime / "satchel-runtime"
    direct_environment = {
        **environment,
        "LD_LIBRARY_PATH": str(internal),
        "_PYI_ARCHIVE_FILE": str(program),
        "_PYI_PARENT_PROCESS_LEVEL": "0",
        "SATCHEL_PACK_PATH": str(pack),
        "SATCHEL_RUNTIME": str(runtime),
        "SATCHEL_CACHE_ROOT": environment["SATCHEL_CACHE"],
        "SATCHEL_ARGV0": str(pack),
    }
    descriptor = os.open(pack, os.O_RDONLY)
    direct = [
        internal / "ld-linux.so.2", "--inhibit-cache", "--library-path", internal,
        "--argv0", program, program, "--version",
    ]  # fmt: skip
    direct_environment["SATCHEL_PACK_FD"] = str(descriptor)
    through, straight = [], []
    for _ in range(runs):
        through.append(timed(lambda: run([pack, "--version"], environment)))
        straight.append(timed(lambda: run(direct, direct_environment, keep=descriptor)))
    os.close(descriptor)
    differences = [(a - b) * 1e3 for a, b in zip(through, straight, strict=True)]
    print(f"warm start of --version, median of {runs}, in turn:")
    print(f"  through the launcher  {statistics.median(through) * 1e3:6.1f} ms")
    print(f"  runtime directly      {statistics.median(straight) * 1e3:6.1f} ms")
    print(
        f"  launcher's share      {statistics.median(differences):6.2f} ms, median of differences\n"
    )


def warm_writes(pack: Path, work: Path, environment: Mapping[str, str]) -> None:
    """Files that a warm start makes or changes."""
    run([pack, *PROMPT], environment)
    before = snapshot(work)
    run([pack, *PROMPT], environment)
    changed = [path for path, state in snapshot(work).items() if before.get(path) != state]
    print(f"files changed by a warm start in home and cache: {len(changed)}\n")


def memory(pack: Path, model: Path, work: Path, environment: Mapping[str, str], runs: int) -> None:
    """Peak resident memory: the model in the pack against the same engine on a plain GGUF."""
    plain = work / "plain"
    run(
        [
            "satchel",
            "pack",
            model,
            "-o",
            plain,
            "--storage",
            "sidecar",
            "--system",
            "You are a helpful assistant.",
        ],
        environment,
    )
    inside, beside = [], []
    for _ in range(runs):
        inside.append(peak([pack, *PROMPT], environment))
        beside.append(peak([plain, *PROMPT], environment))
    ratio = statistics.median(a / b for a, b in zip(inside, beside, strict=True))
    print(f"peak resident memory of one answer, median of {runs}, in turn:")
    print(f"  model inside the pack {statistics.median(inside) / 1e6:6.1f} MB")
    print(f"  plain GGUF file       {statistics.median(beside) / 1e6:6.1f} MB")
    print(f"  ratio                 {ratio:6.3f}")


def run(command: Sequence[object], environment: Mapping[str, str], *, keep: int = -1) -> None:
    words = [str(word) for word in command]
    if words[0] == "satchel":
        words[0] = str(Path(__file__).resolve().parent.parent / ".venv" / "bin" / "satchel")
    subprocess.run(
        words, env=dict(environment), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        pass_fds=(keep,) if keep >= 0 else (),
    )  # fmt: skip


def peak(command: Sequence[object], environment: Mapping[str, str]) -> int:
    """Peak resident memory in bytes of one process."""
    child = subprocess.Popen(
        [str(word) for word in command], env=dict(environment), stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0
    return usage.ru_maxrss * 1024


def timed(action: Callable[[], None]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def snapshot(folder: Path) -> dict[Path, tuple[int, int, int]]:
    states = {}
    for path in folder.rglob("*"):
        facts = path.lstat()
        states[path] = (facts.st_ino, facts.st_size, facts.st_mtime_ns)
    return states


def used(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
