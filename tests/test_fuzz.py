"""Hostile files, made by fuzzers: for seconds in CI, for hours with --fuzz-seconds.

The launcher's readers are built with the compiler's checks of memory and arithmetic and run
under libFuzzer (clang); Python's readers under atheris, or with seeds changed at random where
that is not installed. A finding is written where the message says, and replayed with it alone.
"""

from __future__ import annotations

import importlib.util
import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fuzz_seeds import write_seeds
from fuzz_targets import TARGETS

from packer.launcher_build import build_cache, zstd_source
from packer.stub import CHECKOUT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the Linux launcher"),
]

SOURCES = CHECKOUT / "runtime_stub" / "launcher"
HARNESS = CHECKOUT / "tests" / "fuzz"
C_TARGETS = ("footer", "index", "unpack")
MEMORY_MB = 640
"""Twice zstd's largest window, and room for the checks themselves."""


@pytest.fixture(scope="session")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seeds")
    write_seeds(folder)
    return folder


@pytest.fixture(scope="session")
def fuzzers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a fuzzer of each of the launcher's readers."""
    if shutil.which("clang") is None:
        pytest.skip("clang is not installed")
    folder = tmp_path_factory.mktemp("fuzzers")
    zstd = zstd_source(CHECKOUT)
    # zstd is fuzzed by its own project, and takes a minute to compile with checks.
    decoder = build_cache() / f"{zstd.name}-fuzz.o"
    if not decoder.exists():
        part = decoder.with_suffix(f".{os.getpid()}.part")
        subprocess.run(
            ["clang", "-O1", "-w", "-c", "-o", part, zstd / "zstd.c"], check=True, timeout=400
        )
        part.replace(decoder)
    flags = "-std=c11 -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all"
    code = [
        SOURCES / f"{name}.c"
        for name in ("format", "sha256", "extract", "runtime", "cache", "support")
    ]
    for name in C_TARGETS:
        command: list[str | Path] = ["clang", *flags.split(), "-Wall", "-Wextra", "-Werror"]
        command += ["-isystem", zstd, f"-I{SOURCES}", "-o", folder / name]
        subprocess.run(
            [*command, HARNESS / f"{name}.c", *code, decoder, "-pthread"], check=True, timeout=200
        )
    return folder


def fuzz(command: list[str | Path], corpus: Path, found: Path, seconds: float) -> int:
    """Run a libFuzzer; returns the number of inputs it tried."""
    options = [
        *(f"-max_total_time={max(1, int(seconds))}", f"-rss_limit_mb={MEMORY_MB}", "-timeout=60"),
        *("-print_final_stats=1", "-max_len=65536", f"-artifact_prefix={found}/"),
    ]
    result = subprocess.run(
        # Through a shell that does not become the fuzzer: what a process is said to have taken at
        # most includes what the one had that it was made of, and here that is all tests so far.
        ["sh", "-c", '"$@"; exit $?', "sh", *command, corpus, *options],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=seconds * 3 + 240,
        env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0"},
    )
    assert result.returncode == 0, result.stderr[-4000:]
    tried = re.search(r"number_of_executed_units:\s*(\d+)", result.stderr)
    assert tried is not None, result.stderr[-2000:]
    return int(tried[1])


@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", C_TARGETS)
def test_launcher(
    fuzzers: Path, seeds: Path, tmp_path: Path, fuzz_seconds: float, name: str
) -> None:
    tried = fuzz([fuzzers / name], seeds / name, tmp_path, fuzz_seconds)
    assert tried > 100
    print(f"{name}: {tried:,} inputs")  # noqa: T201  (shown with -rP)


@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", TARGETS)
def test_python(seeds: Path, tmp_path: Path, fuzz_seconds: float, name: str) -> None:
    if importlib.util.find_spec("atheris") is not None:
        command: list[str | Path] = [sys.executable, HARNESS / "run.py", name]
        tried = fuzz(command, seeds / name, tmp_path, fuzz_seconds)
    else:
        tried = change_at_random(seeds / name, tmp_path, fuzz_seconds, name)
    assert tried > 5
    print(f"{name}: {tried:,} inputs")  # noqa: T201  (shown with -rP)


def change_at_random(corpus: Path, found: Path, seconds: float, name: str) -> int:
    """Without atheris: seeds with a few bytes replaced, removed or repeated."""
    source = random.Random(7)  # noqa: S311
    inputs = [path.read_bytes() for path in sorted(corpus.iterdir())]
    until = time.monotonic() + seconds
    tried = 0
    while time.monotonic() < until or tried < 20:
        data = bytearray(source.choice(inputs))
        for _ in range(source.randint(0, 4)):
            place = source.randrange(len(data) + 1)
            what = bytes(source.choices((0, 1, 0x7F, 0x80, 0xFF, 0x2F, 0x2E), k=2))
            end = place + source.choice((0, 1, 2, 8, 100))
            data[place:end] = source.choice((b"", what, what * 4, bytes(data[place:end]) * 2))
        try:
            TARGETS[name](bytes(data))
        except Exception:
            (found / "crash").write_bytes(data)
            raise
        tried += 1
    return tried


@pytest.mark.parametrize("name", TARGETS)
def test_seeds(seeds: Path, name: str) -> None:
    for path in sorted((seeds / name).iterdir()):
        TARGETS[name](path.read_bytes())
