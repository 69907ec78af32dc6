"""The Linux launcher: real packs of a stand-in runtime, started as a person would."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import pwd
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard
from launcher_packs import (
    BAD_INDEXES,
    GOOD,
    PLAIN_FILES,
    PROGRAM,
    Pack,
    pack_of,
    raw_index,
    resealed,
    stored_pack,
    with_stored,
    write_program,
)

from packer.launcher_build import build_cache, build_launcher, zstd_source
from packer.stub import CHECKOUT, this_platform
from runtime_stub import archive, bundle, cache, environment
from runtime_stub.errors import EXIT_CODES

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the Linux launcher")

SOURCES = CHECKOUT / "runtime_stub" / "launcher"
IS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not IS_ROOT, reason="needs root")
NOBODY = 65534

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


def _key(inputs: object, files: list[Path]) -> str:
    key = hashlib.sha256(repr(inputs).encode())
    for file in files:
        key.update(file.read_bytes())
    return key.hexdigest()[:16]


def _build(compiler: list[str], linking: list[str]) -> Path:
    """Compile the launcher once per state of its sources; zstd apart, because it takes long."""
    zstd = zstd_source(CHECKOUT)
    sources = sorted(SOURCES.glob("*.[ch]"))
    folder = build_cache() / "checked-launcher"
    folder.mkdir(parents=True, exist_ok=True)
    decoder = folder / f"zstd-{_key(compiler, [zstd / 'zstd.c'])}.o"
    built = folder / f"launcher-{_key([compiler, linking], [*sources, zstd / 'zstd.c'])}"
    if not decoder.exists():
        partial = decoder.with_suffix(".part.o")
        command: list[str | Path] = [*compiler, "-w", "-c", "-o", partial, zstd / "zstd.c"]
        subprocess.run(command, check=True)
        partial.replace(decoder)
    if not built.exists():
        partial = built.with_suffix(".part")
        code = [source for source in sources if source.suffix == ".c"]
        command = [*compiler, "-Wall", "-Wextra", "-Werror", "-isystem", zstd, *linking]
        subprocess.run([*command, "-o", partial, *code, decoder], check=True)
        partial.replace(built)
    return built


@pytest.fixture(scope="session")
def launcher() -> Path:
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("ziglang is not installed")
    return build_launcher(CHECKOUT, this_platform())


@pytest.fixture(scope="session")
def checked_launcher() -> Path:
    """Built with the compiler's own checks of memory and arithmetic."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    flags = "-std=c11 -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all"
    return _build(["gcc", *flags.split()], ["-pthread"])


@pytest.fixture(scope="session")
def plain(launcher: Path) -> Pack:
    return pack_of(launcher.read_bytes(), PLAIN_FILES)


@pytest.fixture
def pack(plain: Pack, tmp_path: Path) -> Path:
    folder = tmp_path / "app"
    folder.mkdir()
    return plain.write(folder / "assistant")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def variables(home: Path, tmp_path: Path) -> dict[str, str]:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    path = os.environ.get("PATH", "/usr/bin:/bin")
    return {"HOME": str(home), "PATH": path, "TMPDIR": str(temporary)}


@pytest.fixture
def run(variables: dict[str, str]) -> Run:
    def start(
        program: Path | str, *arguments: str, **options: object
    ) -> subprocess.CompletedProcess[bytes]:
        settings: dict[str, object] = {"env": variables, "capture_output": True, "timeout": 60}
        settings |= options
        return subprocess.run([program, *arguments], **settings)  # type: ignore[call-overload,no-any-return]  # noqa: PLW1510

    return start


def root_of(home: Path) -> Path:
    return home / ".cache" / "satchel"


def runtime_of(root: Path, pack: Pack) -> Path:
    return root / "runtimes" / pack.sha256.hex()


def check_started(result: subprocess.CompletedProcess[bytes]) -> None:
    assert (result.returncode, result.stdout, result.stderr) == (0, b"started\n", b"")


def check_failed(result: subprocess.CompletedProcess[bytes], code: int, *words: str) -> None:
    """One line that starts with the program's name, says what and what to do."""
    text = result.stderr.decode()
    assert (result.returncode, result.stdout) == (code, b""), text
    assert text.count("\n") == 1
    assert text.startswith("assistant: ")
    assert re.search(r"\. [A-Z].*", text), "it says what to do"
    for word in words:
        assert word in text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def debris(root: Path) -> list[str]:
    """What an extraction must not leave behind."""
    if not (root / "runtimes").is_dir():
        return []
    return [name for name in names(root / "runtimes") if name.startswith(".work")]


def snapshot(folder: Path) -> dict[str, tuple[int, ...]]:
    """Everything that a write below `folder` would change."""
    found: dict[str, tuple[int, ...]] = {}
    for path in [folder, *folder.rglob("*")]:
        facts = path.lstat()
        found[str(path)] = (facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_size)
    return found


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A small file system of its own at `folder`."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"mode=700,{options}", "none", str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A temporary folder that other users can enter."""
    folder = Path(tempfile.mkdtemp(prefix="satchel-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


# --- First start, later starts


def test_first_start_extracts(plain: Pack, pack: Path, home: Path, run: Run) -> None:
    check_started(run(pack))
    runtime = runtime_of(root_of(home), plain)
    for name, (content, mode) in PLAIN_FILES.items():
        facts = (runtime / name).stat()
        assert (runtime / name).read_bytes() == content
        assert facts.st_mode & 0o777 == (0o700 if mode & 0o111 else 0o600)
        assert facts.st_mtime_ns == cache.COMPLETE_TIME * 10**9
    index = (runtime / archive.INDEX_FILE).read_bytes()
    assert [member.path for member in archive.unpack_index(index)] == sorted(PLAIN_FILES)
    for folder in (home / ".cache", root_of(home), runtime.parent, runtime, runtime / "_internal"):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert names(runtime.parent) == [runtime.name, f"{runtime.name}.lock"]


@pytest.mark.parametrize("mask", [0o000, 0o002, 0o277])
def test_umask_is_the_runtimes_alone(pack: Path, run: Run, mask: int) -> None:
    for _ in range(2):
        result = run(pack, "sh", "-c", "umask", umask=mask)
        assert (result.returncode, int(result.stdout, 8)) == (0, mask), result.stderr


def test_warm_start_writes_nothing(pack: Path, tmp_path: Path, run: Run) -> None:
    check_started(run(pack))
    before = snapshot(tmp_path)
    check_started(run(pack))
    assert snapshot(tmp_path) == before


def test_last_use_is_stamped_once_a_day(plain: Pack, pack: Path, home: Path, run: Run) -> None:
    check_started(run(pack))
    runtime = runtime_of(root_of(home), plain)
    lock = runtime.with_suffix(".lock")
    for old in (time.time() - 25 * 3600, time.time() + 3600):
        os.utime(lock, (old, old))
        check_started(run(pack))
        assert abs(lock.stat().st_mtime - time.time()) < 60
    lock.unlink()
    check_started(run(pack))
    assert lock.exists()


@pytest.mark.parametrize("damage", ["altered", "shorter", "missing", "linked", "not executable"])
def test_damaged_file_is_repaired(
    plain: Pack, pack: Path, home: Path, run: Run, damage: str
) -> None:
    check_started(run(pack))
    runtime = runtime_of(root_of(home), plain)
    file = runtime / "_internal/base/library.so"
    content = file.read_bytes()
    if damage == "altered":
        file.write_bytes(bytes(len(content)))
    elif damage == "shorter":
        os.truncate(file, 100)
        os.utime(file, (cache.COMPLETE_TIME, cache.COMPLETE_TIME))
    elif damage == "missing":
        file.unlink()
    elif damage == "linked":
        file.rename(runtime / "elsewhere")
        file.symlink_to(runtime / "elsewhere")
    else:
        file.chmod(0o600)
    check_started(run(pack))
    assert file.read_bytes() == content
    assert not file.is_symlink()
    assert file.stat().st_mode & 0o777 == 0o700
    assert debris(root_of(home)) == []


@pytest.mark.parametrize("damage", ["cut", "altered", "missing", "empty", "folder is a file"])
def test_damaged_index_is_repaired(
    plain: Pack, pack: Path, home: Path, run: Run, damage: str
) -> None:
    check_started(run(pack))
    runtime = runtime_of(root_of(home), plain)
    index = runtime / archive.INDEX_FILE
    content = index.read_bytes()
    if damage == "folder is a file":
        shutil.rmtree(runtime)
        runtime.write_bytes(b"")
    elif damage == "missing":
        index.unlink()
    else:
        changed = {"cut": content[:-1], "altered": content[:-1] + b"x", "empty": b""}[damage]
        index.write_bytes(changed)
        os.utime(index, (cache.COMPLETE_TIME, cache.COMPLETE_TIME))
    check_started(run(pack))
    assert index.read_bytes() == content
    assert debris(root_of(home)) == []


def test_killed_while_extracting(launcher: Path, home: Path, tmp_path: Path, run: Run) -> None:
    files = {f"_internal/{n:04}": (b"x" * n, 0o644) for n in range(300)}
    many = pack_of(launcher.read_bytes(), files | {"satchel-runtime": (PROGRAM, 0o755)})
    path = many.write(tmp_path / "assistant")
    root = root_of(home)
    variables = {"HOME": str(home)}
    with subprocess.Popen([path], env=variables, stdout=subprocess.DEVNULL) as process:
        while not debris(root):
            assert process.poll() is None
        process.kill()
    assert debris(root)
    assert not runtime_of(root, many).exists()
    check_started(run(path))
    assert debris(root) == []


def test_many_first_starts_extract_once(
    plain: Pack, pack: Path, home: Path, variables: dict[str, str]
) -> None:
    runtime = runtime_of(root_of(home), plain)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    processes = [
        subprocess.Popen([pack, "ls", "-di", str(runtime)], env=variables, **pipes)  # type: ignore[call-overload]
        for _ in range(20)
    ]
    outputs = {process.communicate(timeout=60)[0] for process in processes}
    assert [process.returncode for process in processes] == [0] * 20
    assert len(outputs) == 1, "the runtime's folder was replaced in between"
    assert debris(root_of(home)) == []


def test_a_waiting_start_says_so(plain: Pack, pack: Path, home: Path, run: Run) -> None:
    check_started(run(pack))
    runtime = runtime_of(root_of(home), plain)
    shutil.rmtree(runtime)
    (runtime.parent / f".work-{runtime.name[:16]}-1" / "deep").mkdir(parents=True)
    with runtime.with_suffix(".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = subprocess.Popen([pack], env={"HOME": str(home)}, stderr=subprocess.PIPE)
        assert process.stderr is not None
        line = process.stderr.readline()
        assert debris(root_of(home)), "not swept without the lock"
    assert line == b"assistant: waiting for another start to finish extracting\n"
    assert process.communicate(timeout=60)[1] == b""
    assert process.returncode == 0
    assert debris(root_of(home)) == []


# --- What reaches the runtime


def test_arguments_streams_and_folder_pass_through(
    pack: Path, home: Path, tmp_path: Path, run: Run
) -> None:
    arguments = ["", "two words", "--satchel-cachet", "line\nbreak", "ü", "--satchel-cache", "x"]
    result = run(pack, "printf", "%s\\0", *arguments)
    assert result.stdout == "".join(f"{text}\0" for text in arguments).encode()
    assert run(pack, "cat", input=b"asked").stdout == b"asked"
    assert run(pack, "sh", "-c", "echo problem >&2").stderr == b"problem\n"
    assert run(pack, "pwd", cwd=home).stdout.decode().strip() == str(home)


def test_exit_code_and_signal_pass_through(pack: Path, run: Run) -> None:
    assert run(pack, "sh", "-c", "exit 7").returncode == 7
    assert run(pack, "sh", "-c", "kill -TERM $$").returncode == -signal.SIGTERM


def test_the_process_is_replaced(pack: Path, variables: dict[str, str]) -> None:
    with subprocess.Popen(
        [pack, "sh", "-c", "echo $$"], env=variables, stdout=subprocess.PIPE
    ) as process:
        assert int(process.communicate()[0]) == process.pid


def test_ignored_signals_stay_ignored(pack: Path, run: Run) -> None:
    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})

    result = run(pack, "grep", "^Sig[BI]", "/proc/self/status", preexec_fn=ignore)
    blocked, ignored = (int(line.split()[1], 16) for line in result.stdout.splitlines())
    assert blocked & 1 << (signal.SIGUSR1 - 1)
    assert ignored & 1 << (signal.SIGHUP - 1)


def environment_of(result: subprocess.CompletedProcess[bytes]) -> dict[str, str]:
    assert result.returncode == 0, result.stderr
    entries = result.stdout.decode().split("\0")[:-1]
    return dict(entry.split("=", 1) for entry in entries)


def test_environment(
    plain: Pack, pack: Path, home: Path, run: Run, variables: dict[str, str]
) -> None:
    hosts = {"LD_PRELOAD": "/nowhere.so", "LD_LIBRARY_PATH": "/host", "LOCPATH": "/l"}
    hosts |= {"GLIBC_TUNABLES": "glibc.malloc.check=0", "GCONV_PATH": "/g"}
    stale = dict.fromkeys(environment.LAUNCHER_VARIABLES, "stale")
    stale |= {"SATCHEL_HOST_LD_AUDIT": "stale", "_PYI_SPLASH_IPC": "stale"}
    given = variables | hosts | stale | {"KEPT": "yes", "LDFLAGS": "-s"}
    seen = environment_of(run(pack, "env", "-0", env=given))
    runtime = runtime_of(root_of(home), plain)
    assert seen["LD_LIBRARY_PATH"] == f"{runtime}/_internal"
    assert seen["_PYI_ARCHIVE_FILE"] == f"{runtime}/satchel-runtime"
    assert seen["_PYI_PARENT_PROCESS_LEVEL"] == "0"
    assert "_PYI_SPLASH_IPC" not in seen
    assert "LD_PRELOAD" not in seen
    assert "SATCHEL_HOST_LD_AUDIT" not in seen
    descriptor = int(seen["SATCHEL_PACK_FD"])
    assert descriptor >= 3

    seen["SATCHEL_PACK_FD"] = str(os.open(pack, os.O_RDONLY))  # as if we were the runtime
    launch = environment.take(seen)
    os.close(launch.descriptor)
    assert launch.path == pack
    assert launch.runtime == runtime
    assert launch.cache_root == root_of(home)
    assert launch.argv0 == str(pack)
    expected = {**variables, **hosts, "KEPT": "yes", "LDFLAGS": "-s"}
    assert expected.items() <= launch.host_environment.items()
    added = launch.host_environment.keys() - expected.keys()
    assert added <= {"PWD", "OLDPWD", "SHLVL", "_"}, "by the shell"


def test_descriptors_are_the_packs_and_the_runtimes_alone(
    plain: Pack, pack: Path, home: Path, run: Run
) -> None:
    list_all = "for f in /proc/$$/fd/*; do readlink $f; done"
    for _ in range(2):
        ours = 'readlink "/proc/$$/fd/$SATCHEL_PACK_FD" "/proc/$$/fd/$SATCHEL_RUNTIME_FD"'
        result = run(pack, "sh", "-c", f"{ours}; {list_all}")
        first, second, *others = result.stdout.decode().split()
        assert [first, second] == [str(pack), str(runtime_of(root_of(home), plain))]
        files = [name for name in others if name.startswith("/")]
        assert [name for name in files if name != "/dev/null"] == [first, second]


def test_closed_streams_stay_closed(pack: Path, variables: dict[str, str]) -> None:
    """Exit code 1: not even the first of them is open in the runtime."""
    inside = "for n in 0 1 2; do [ -e /proc/$$/fd/$n ] && exit 9; done; exit 1"
    script = f"exec <&- >&- 2>&-; exec '{pack}' sh -c '{inside}'"
    for _ in range(2):
        result = subprocess.run(["sh", "-c", script], env=variables, check=False, timeout=60)
        assert result.returncode == 1


def test_error_with_closed_streams(plain: Pack, tmp_path: Path) -> None:
    cut = write_program(tmp_path / "assistant", plain.content()[:-1])
    script = f'exec <&- >&- 2>&-; exec "{cut}"'
    assert subprocess.run(["sh", "-c", script], check=False, timeout=60).returncode == 71


def test_called_through_path_and_link(
    pack: Path, tmp_path: Path, run: Run, variables: dict[str, str]
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "helper").symlink_to(pack)
    found = variables | {"PATH": f"{folder}:{variables['PATH']}"}
    script = ["sh", "-c", "helper env -0"]
    seen = environment_of(run(script[0], *script[1:], env=found))
    assert seen["SATCHEL_PACK_PATH"] == str(pack)
    assert Path(seen["SATCHEL_ARGV0"]).name == "helper"


def test_runtime_with_its_own_loader(launcher: Path, tmp_path: Path, run: Run, home: Path) -> None:
    """The stand-in for the loader prints how it was called."""
    loader = b'#!/bin/sh\nprintf "%s\\n" "$@"\n'
    files = {**PLAIN_FILES, "_internal/ld-linux.so.2": (loader, 0o755)}
    own = pack_of(launcher.read_bytes(), files)
    path = own.write(tmp_path / "assistant")
    folder = runtime_of(root_of(home), own)
    program = f"{folder}/satchel-runtime"
    expected = ["--inhibit-cache", "--library-path", f"{folder}/_internal", "--argv0"]
    for _ in range(2):
        result = run(path, "chat")
        assert result.stdout.decode().split() == [*expected, program, program, "chat"]


def test_runtime_that_does_not_start(launcher: Path, tmp_path: Path, run: Run) -> None:
    files = {**PLAIN_FILES, "satchel-runtime": (b"\x7fELF nonsense", 0o755)}
    path = pack_of(launcher.read_bytes(), files).write(tmp_path / "assistant")
    check_failed(run(path), 75, "satchel-runtime", "could not be started")


# --- Which folder


def test_missing_home(pack: Path, run: Run, tmp_path: Path) -> None:
    own_home = pwd.getpwuid(os.geteuid()).pw_dir
    script = ["sh", "-c", 'echo "$SATCHEL_CACHE_ROOT"']
    for given in ({}, {"HOME": ""}, {"HOME": "relative"}):
        # Root's own home is not touched: the runtime is found beside the pack, if not there.
        if not Path(own_home, ".cache/satchel").exists():
            check_started(run(pack, "--satchel-cache", str(pack.parent / ".satchel-cache")))
            result = run(pack, *script, env={"PATH": os.environ["PATH"], **given})
            assert result.stdout.decode().strip() == str(pack.parent / ".satchel-cache")


def test_xdg_cache_home(pack: Path, run: Run, tmp_path: Path, variables: dict[str, str]) -> None:
    folder = tmp_path / "xdg"
    script = ["sh", "-c", 'echo "$SATCHEL_CACHE_ROOT"']
    result = run(pack, *script, env=variables | {"XDG_CACHE_HOME": f"{folder}/"})
    assert result.stdout.decode().strip() == f"{folder}/satchel"
    result = run(pack, *script, env=variables | {"XDG_CACHE_HOME": "relative"})
    assert result.stdout.decode().strip() == f"{variables['HOME']}/.cache/satchel"


def test_candidates_are_the_runtimes_own(
    pack: Path, variables: dict[str, str], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each candidate in turn, with those before it taken by a file."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv(environment.CACHE_VARIABLE, raising=False)
    for name in ("HOME", "TMPDIR"):
        monkeypatch.setenv(name, variables[name])
    (Path(variables["HOME"]) / ".cache").mkdir()
    for candidate in cache.candidates(pack):
        result = run(pack, "sh", "-c", 'echo "$SATCHEL_CACHE_ROOT"')
        assert result.stdout.decode().strip() == str(candidate), result.stderr
        shutil.rmtree(candidate)
        candidate.write_bytes(b"")
    check_failed(run(pack), 72, *(str(candidate) for candidate in cache.candidates(pack)))


@pytest.mark.parametrize("form", ["two arguments", "one argument", "variable", "relative"])
def test_chosen_cache(plain: Pack, pack: Path, home: Path, tmp_path: Path, form: str) -> None:
    folder = tmp_path / "new" / "chosen"
    variables = {"HOME": str(home), "PATH": os.environ["PATH"]}
    options = {
        "two arguments": ["--satchel-cache", str(folder)],
        "one argument": [f"--satchel-cache={folder}/"],
        "relative": ["--satchel-cache", "new/chosen"],
        "variable": [],
    }[form]
    variables["SATCHEL_CACHE"] = str(folder) if form == "variable" else "/nonsense"
    script = 'echo "$SATCHEL_CACHE" "$SATCHEL_CACHE_ROOT" "$@"'
    command: list[str | Path] = [pack, *options, "sh", "-c", script, "a", "b"]
    result = subprocess.run(
        command, env=variables, cwd=tmp_path, capture_output=True, check=True, timeout=60
    )
    assert result.stdout.decode() == f"{folder} {folder} b\n"
    assert runtime_of(folder, plain).is_dir()
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("options", [["--satchel-cache"], ["--satchel-cache="]])
def test_chosen_cache_needs_a_folder(pack: Path, run: Run, options: list[str]) -> None:
    check_failed(run(pack, *options), 2, "--satchel-cache")


def test_empty_choice_is_none(pack: Path, run: Run, variables: dict[str, str]) -> None:
    check_started(run(pack, env=variables | {"SATCHEL_CACHE": ""}))


def refuse(run: Run, pack: Path, folder: Path, *words: str) -> None:
    """Choosing `folder` is refused."""
    check_failed(run(pack, "--satchel-cache", str(folder)), 72, str(folder), *words)


def test_unusable_choice(pack: Path, home: Path, tmp_path: Path, run: Run) -> None:
    taken = tmp_path / "file"
    taken.write_bytes(b"")
    refuse(run, pack, taken, "is not a folder")
    refuse(run, pack, taken / "below", "file")
    refuse(run, pack, tmp_path / ("x" * 300), "too long")
    refuse(run, pack, Path("/" + "y/" * 3000), "too long")
    refuse(run, pack, Path("/proc/none"), "No such file or directory")
    assert list(home.iterdir()) == []


def test_control_characters_are_shown_escaped(pack: Path, tmp_path: Path, run: Run) -> None:
    taken = tmp_path / "a\n\x1b[1m\x9bü"
    taken.write_bytes(b"")
    result = run(pack, "--satchel-cache", str(taken))
    check_failed(result, 72, "a\\x0a\\x1b[1m\\xc2\\x9bü: ")


def test_symbolic_links_in_the_cache_are_refused(
    plain: Pack, pack: Path, tmp_path: Path, run: Run
) -> None:
    real = tmp_path / "real"
    check_started(run(pack, "--satchel-cache", str(real)))
    link = tmp_path / "link"
    link.symlink_to(real)
    refuse(run, pack, link, "symbolic link")
    link.unlink()
    link.mkdir(mode=0o700)
    (link / "runtimes").symlink_to(real / "runtimes")
    refuse(run, pack, link, "runtimes")


def test_own_links_on_the_way_are_followed(pack: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "relative").symlink_to("./real/../real")
    (tmp_path / "absolute").symlink_to(tmp_path / "relative")
    check_started(run(pack, "--satchel-cache", f"{tmp_path}/absolute/../real/../relative/root"))
    assert (tmp_path / "real" / "root" / "runtimes").is_dir()
    (tmp_path / "loop").symlink_to("loop")
    refuse(run, pack, tmp_path / "loop" / "root", "leads nowhere")


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_folders_others_can_change_are_refused(
    pack: Path, tmp_path: Path, run: Run, mode: int
) -> None:
    root = tmp_path / "root"
    check_started(run(pack, "--satchel-cache", str(root)))
    for folder in (root, root / "runtimes"):
        folder.chmod(mode)
        refuse(run, pack, root, "can be changed by other users")
        folder.chmod(0o700)
    check_started(run(pack, "--satchel-cache", str(root)))


def test_world_writable_way_must_be_sticky(pack: Path, tmp_path: Path, run: Run) -> None:
    way = tmp_path / "way"
    way.mkdir()
    way.chmod(0o777)
    refuse(run, pack, way / "root", "can be changed by every user")
    way.chmod(0o1777)
    check_started(run(pack, "--satchel-cache", str(way / "root")))


def test_others_writing_into_the_runtime_spoils_it(
    plain: Pack, pack: Path, home: Path, run: Run
) -> None:
    check_started(run(pack))
    runtime = runtime_of(root_of(home), plain)
    for name in (".", "_internal", "_internal/base", "_internal/data.txt"):
        (runtime / name).chmod(0o777)
        check_started(run(pack))
        assert (runtime / name).stat().st_mode & 0o077 == 0


@needs_root
def test_foreign_owners_are_refused(plain: Pack, pack: Path, tmp_path: Path, run: Run) -> None:
    root = tmp_path / "root"
    check_started(run(pack, "--satchel-cache", str(root)))
    for folder in (root, root / "runtimes"):
        os.chown(folder, NOBODY, NOBODY)
        refuse(run, pack, root, "belongs to another user")
        os.chown(folder, 0, 0)
    file = runtime_of(root, plain) / "_internal/data.txt"
    os.chown(file, NOBODY, NOBODY)
    check_started(run(pack, "--satchel-cache", str(root)))
    assert file.stat().st_uid == 0


@needs_root
def test_foreign_way_is_refused(pack: Path, tmp_path: Path, run: Run) -> None:
    way = tmp_path / "way"
    way.mkdir()
    os.chown(way, NOBODY, NOBODY)
    refuse(run, pack, way / "root", "belongs to another user")
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
    refuse(run, pack, link / "root", "another user's symbolic link")


def test_refused_candidate_falls_to_the_next(pack: Path, home: Path, run: Run) -> None:
    root_of(home).mkdir(parents=True)
    root_of(home).chmod(0o777)
    result = run(pack, "sh", "-c", 'echo "$SATCHEL_CACHE_ROOT"')
    assert result.stdout.decode().strip() == str(pack.parent / ".satchel-cache")


@needs_root
def test_roots_cache_serves_other_users(plain: Pack, open_folder: Path) -> None:
    path = plain.write(open_folder / "assistant")
    root = open_folder / ".satchel-cache"
    way = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "TMPDIR": "/nonexistent"}
    subprocess.run([path], env=way | {"SATCHEL_CACHE": str(root)}, check=True, timeout=60)
    before = names(open_folder)
    as_nobody = {"user": NOBODY, "group": NOBODY, "extra_groups": [], "env": way}
    closed = subprocess.run([path], capture_output=True, check=False, timeout=60, **as_nobody)  # type: ignore[call-overload]
    assert closed.returncode == 72
    subprocess.run(["chmod", "-R", "a+rX", root], check=True)
    os.utime(runtime_of(root, plain).with_suffix(".lock"), (0, 0))
    tree = snapshot(root)
    opened = subprocess.run([path], capture_output=True, check=False, timeout=60, **as_nobody)  # type: ignore[call-overload]
    check_started(opened)
    assert snapshot(root) == tree
    assert names(open_folder) == before


@needs_root
def test_in_a_user_namespace_without_root(plain: Pack, open_folder: Path) -> None:
    path = plain.write(open_folder / "assistant")
    home = open_folder / "home"
    home.mkdir()
    os.chown(home, 1234, 1234)
    inside = ["setpriv", "--reuid=1234", "--regid=1234", "--clear-groups"]
    inside += ["unshare", "--user", "--map-current-user"]
    if not all(shutil.which(tool) for tool in ("setpriv", "unshare")) or (
        subprocess.run([*inside, "true"], capture_output=True, check=False).returncode != 0
    ):
        pytest.skip("user namespaces are not allowed here")
    variables = {"HOME": str(home), "PATH": os.environ["PATH"], "TMPDIR": "/nonexistent"}
    result = subprocess.run(
        [*inside, path], env=variables, capture_output=True, check=False, timeout=60
    )
    check_started(result)
    assert root_of(home).is_dir()


@needs_root
def test_read_only_candidate_is_used(plain: Pack, pack: Path, home: Path, run: Run) -> None:
    with mounted(home, "size=32m"):
        check_started(run(pack))
        os.utime(runtime_of(root_of(home), plain).with_suffix(".lock"), (0, 0))
        subprocess.run(["mount", "-o", "remount,ro", str(home)], check=True)
        before = snapshot(home)
        check_started(run(pack))
        assert snapshot(home) == before
        assert names(pack.parent) == ["assistant"]
        other = replace(plain, runtime_size=plain.runtime_size + 1)
        longer = with_stored(other, zstandard.compress(zstandard.decompress(plain.stored), 19))
        check_started(run(longer.write(pack)))
        assert runtime_of(pack.parent / ".satchel-cache", longer).is_dir()
        result = run(pack, "--satchel-cache", str(root_of(home)))
        check_failed(result, 72, "Read-only file system")


@needs_root
def test_noexec_candidate_is_passed_over(pack: Path, home: Path, run: Run) -> None:
    with mounted(home, "size=32m,noexec"):
        result = run(pack, "sh", "-c", 'echo "$SATCHEL_CACHE_ROOT"')
        assert result.stdout.decode().strip() == str(pack.parent / ".satchel-cache")
        assert list(home.iterdir()) == []
        refuse(run, pack, home / "root", "noexec")


# --- Disk space


@needs_root
def test_full_disk(launcher: Path, tmp_path: Path, run: Run, home: Path) -> None:
    files = {**PLAIN_FILES, "_internal/large": (bytes(8 << 20), 0o644)}
    large = pack_of(launcher.read_bytes(), files)
    path = large.write(tmp_path / "assistant")
    with mounted(home, "size=12m"):
        full = ["--satchel-cache", str(root_of(home))]
        check_failed(run(path, *full), 73, str(home), "needs 18 MB, 12 MB are free")
        assert debris(root_of(home)) == []
        result = run(path, "sh", "-c", 'echo "$SATCHEL_CACHE_ROOT"')
        assert result.stdout.decode().strip() == str(tmp_path / ".satchel-cache")


@needs_root
def test_damaged_runtime_makes_room_for_its_repair(
    launcher: Path, tmp_path: Path, run: Run, home: Path
) -> None:
    files = {**PLAIN_FILES, "_internal/large": (bytes(8 << 20), 0o644)}
    large = pack_of(launcher.read_bytes(), files)
    path = large.write(tmp_path / "assistant")
    with mounted(home, "size=20m"):
        chosen = ["--satchel-cache", str(root_of(home))]
        check_started(run(path, *chosen))
        (runtime_of(root_of(home), large) / "_internal/data.txt").unlink()
        check_started(run(path, *chosen))


@needs_root
def test_disk_full_while_writing(pack: Path, run: Run, home: Path) -> None:
    """A disk that has bytes to spare but no room for more files."""
    with mounted(home, "size=32m,nr_inodes=9"):
        result = run(pack, "--satchel-cache", str(home / "root"))
        check_failed(result, 73, str(home), "No space left on device", "needs 10 MB")
        assert debris(home / "root") == []
        assert all(name.endswith(".lock") for name in names(home / "root" / "runtimes"))


# --- Packs that are not sound


def test_cut_short(plain: Pack, pack: Path, home: Path, run: Run) -> None:
    content = plain.content()
    length = len(plain.launcher)
    for size in (len(content) - 1, len(content) - 255, len(content) - 256, length + 99, length):
        check_failed(run(write_program(pack, content[:size])), 71, str(pack), "cut short")
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("runtime_offset", 2**64 - 1),
        ("runtime_offset", 0),
        ("runtime_length", 2**64 - 1),
        ("runtime_length", 0),
        ("runtime_size", 2**64 - 1),
        ("manifest_offset", 2**63),
        ("manifest_length", 2**64 - 256),
        ("launcher_length", 2**40),
        ("pack_size", 1),
    ],
)
def test_footer_that_points_outside(
    plain: Pack, pack: Path, run: Run, name: str, value: int
) -> None:
    changes: dict[str, Any] = {name: value}
    footer = replace(plain.footer(), **changes).pack()
    check_failed(run(write_program(pack, plain.content()[:-256] + footer)), 71, "damaged")


@pytest.mark.parametrize("position", [16, 20, 24, 33, 60, 88, 110, 140, 150, 223, 224, 255])
def test_footer_with_a_flipped_bit(plain: Pack, pack: Path, run: Run, position: int) -> None:
    content = bytearray(plain.content())
    content[position - 256] ^= 1
    check_failed(run(write_program(pack, bytes(content))), 71)


def test_reserved_bytes_must_be_zero(plain: Pack, pack: Path, run: Run) -> None:
    footer = bytearray(plain.footer().pack())
    footer[150] = 1
    content = plain.content()[:-256] + resealed(bytes(footer))
    check_failed(run(write_program(pack, content)), 71, "damaged")


def test_newer_format(plain: Pack, pack: Path, run: Run) -> None:
    footer = bytearray(plain.footer().pack())
    footer[16:20] = struct.pack("<I", 9)
    content = plain.content()[:-256] + resealed(bytes(footer))
    check_failed(run(write_program(pack, content)), 71, "format version 9")


@pytest.mark.parametrize("length", [1, 255, 256, 10_000, bundle.FOOTER_WINDOW])
def test_signature_after_the_footer(plain: Pack, pack: Path, run: Run, length: int) -> None:
    check_started(run(write_program(pack, plain.content() + b"\x89" * length)))


def test_signature_past_the_window(plain: Pack, pack: Path, run: Run) -> None:
    content = plain.content() + bytes(bundle.FOOTER_WINDOW + 1)
    check_failed(run(write_program(pack, content)), 71)


def test_footers_of_other_files_are_passed_over(plain: Pack, pack: Path, run: Run) -> None:
    """A pack may be followed by what looks like a footer: bytes of a signature, another pack's."""
    foreign = replace(plain.footer(), pack_size=4711).pack()
    content = plain.content() + bundle.MAGIC + bytes(300) + foreign + foreign[:100]
    check_started(run(write_program(pack, content)))


def test_magic_is_not_in_the_launcher(launcher: Path) -> None:
    assert bundle.MAGIC not in launcher.read_bytes()


@pytest.mark.parametrize("position", [0, 5, 0.5, -1])
def test_runtime_with_a_flipped_bit(
    plain: Pack, pack: Path, home: Path, run: Run, position: float
) -> None:
    stored = bytearray(plain.stored)
    stored[int(len(stored) * position) if isinstance(position, float) else position] ^= 0x10
    damaged = replace(plain, stored=bytes(stored))
    result = run(damaged.write(pack))
    check_failed(result, 71, "the runtime inside the pack is damaged", str(pack))
    lock = runtime_of(root_of(home), plain).with_suffix(".lock").name
    assert names(root_of(home) / "runtimes") == [lock]


def test_runtime_with_a_wrong_hash(plain: Pack, pack: Path, home: Path, run: Run) -> None:
    check_failed(run(replace(plain, sha256=bytes(32)).write(pack)), 71, "runtime")
    assert debris(root_of(home)) == []


def compressed(data: bytes, **options: int) -> bytes:
    return zstandard.ZstdCompressor(level=1, **options).compress(data)  # type: ignore[arg-type]


@pytest.mark.parametrize("change", ["bytes after", "frame after", "cut", "not zstd", "twice"])
def test_stream_that_is_not_one_frame(
    plain: Pack, pack: Path, home: Path, run: Run, change: str
) -> None:
    stored = {
        "bytes after": plain.stored + b"x",
        "frame after": plain.stored + compressed(b""),
        "cut": plain.stored[:-4],
        "not zstd": b"nonsense" * 100,
        "twice": plain.stored * 2,
    }[change]
    check_failed(run(with_stored(plain, stored).write(pack)), 71, "runtime")
    assert debris(root_of(home)) == []


@pytest.mark.parametrize("name", BAD_INDEXES)
def test_bad_archives_are_refused(plain: Pack, pack: Path, home: Path, run: Run, name: str) -> None:
    content = BAD_INDEXES[name] + PROGRAM
    bad = stored_pack(plain.launcher, content, len(PROGRAM))
    check_failed(run(bad.write(pack)), 71, "the runtime inside the pack is damaged")
    assert debris(root_of(home)) == []
    assert not runtime_of(root_of(home), bad).exists()


def test_archives_of_another_length_are_refused(
    plain: Pack, pack: Path, home: Path, run: Run
) -> None:
    index = raw_index([GOOD])
    for content in (index + PROGRAM[:-1], index + PROGRAM + b"x", index, index[:20], b""):
        bad = stored_pack(plain.launcher, content, len(PROGRAM))
        check_failed(run(bad.write(pack)), 71, "runtime")
    small = stored_pack(plain.launcher, index + PROGRAM, len(PROGRAM) - 1)
    check_failed(run(small.write(pack)), 71, "runtime")
    assert debris(root_of(home)) == []


def test_file_and_folder_of_one_name(plain: Pack, pack: Path, home: Path, run: Run) -> None:
    index = raw_index([(b"a", 0, 0o644), (b"a/b", 0, 0o644), GOOD])
    bad = stored_pack(plain.launcher, index + PROGRAM, len(PROGRAM))
    check_failed(run(bad.write(pack)), 74, "could not be extracted")
    assert debris(root_of(home)) == []


@pytest.mark.parametrize("window", [27, 28])
def test_window_of_the_decoder_is_bounded(
    plain: Pack, pack: Path, home: Path, run: Run, window: int
) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=window, compression_level=1)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    stored = compressor.compress(zstandard.decompress(plain.stored)) + compressor.flush()
    result = run(with_stored(plain, stored).write(pack))
    if window == 27:
        check_started(result)
    else:
        check_failed(result, 71, "runtime")


@needs_root
def test_set_user_id_is_refused(plain: Pack, open_folder: Path) -> None:
    path = plain.write(open_folder / "assistant")
    path.chmod(0o4755)
    result = subprocess.run(
        [path], user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, check=False
    )
    check_failed(result, 70, "set-user-ID")


def test_exit_codes_are_those_of_errors() -> None:
    text = (SOURCES / "support.h").read_text()
    codes = {int(code) for code in re.findall(r"\bEXIT_[A-Z_]+ = (\d+),", text)}
    documented = {code for code, meaning in EXIT_CODES.items() if meaning.startswith("launcher:")}
    assert codes - {2} == documented == set(range(70, 76))
    assert codes <= EXIT_CODES.keys()


def test_format_constants_are_pythons() -> None:
    text = (SOURCES / "format.h").read_text()
    for name, value in {
        "FORMAT_VERSION": bundle.FORMAT_VERSION,
        "FOOTER_SIZE": bundle.FOOTER_SIZE,
        "MAX_FILES": archive.MAX_FILES,
        "MAX_MEMBER_PATH": archive.MAX_PATH,
        "INDEX_FILE": f'"{archive.INDEX_FILE}"',
    }.items():
        assert re.search(rf"#define {name} {value}\b|#define {name} {value}\s", text), name
    assert str(cache.COMPLETE_TIME) in (SOURCES / "runtime.h").read_text()
    positions, position = {}, 0
    for name, code, _ in bundle.FOOTER_LAYOUT:
        positions[f"AT_{name.upper()}"] = position
        position += struct.calcsize(f"<{code}")
    source = (SOURCES / "format.c").read_text()
    for name, found in re.findall(r"\b(AT_[A-Z0-9_]+) = (\d+),", source):
        assert positions[name] == int(found), name


# --- Under the compiler's checks


def changed(random_source: random.Random, data: bytes) -> bytes:
    """`data` with a few bytes replaced, often by values that matter to arithmetic."""
    result = bytearray(data)
    for _ in range(random_source.randint(1, 4)):
        values = [0, 1, 0x7F, 0x80, 0xFF, 0x2F, 0x2E, random_source.randrange(256)]
        result[random_source.randrange(len(result))] = random_source.choice(values)
    return bytes(result)


@pytest.mark.slow
def test_checked_build_survives_random_packs(
    checked_launcher: Path, tmp_path: Path, run: Run, variables: dict[str, str]
) -> None:
    source = random.Random(20)  # noqa: S311
    sound = pack_of(checked_launcher.read_bytes(), PLAIN_FILES)
    path = sound.write(tmp_path / "assistant")
    content, plain_runtime = sound.content(), zstandard.decompress(sound.stored)
    length = archive.index_length(plain_runtime[:16])
    # Address space randomisation can collide with the checker's own; leaks matter little here.
    variables["ASAN_OPTIONS"] = "detect_leaks=0"
    check_started(run(path))
    seen = set()
    for number in range(400):
        if number % 2:
            footer = resealed(changed(source, content[-256:]))
            mutated = content[:-256] + footer
        else:
            index = changed(source, plain_runtime[:length])
            stored = zstandard.compress(index + plain_runtime[length:], 1)
            mutated = with_stored(sound, stored).content()
        result = run(write_program(path, mutated))
        assert b"Sanitizer" not in result.stderr, result.stderr
        assert b"runtime error" not in result.stderr, result.stderr
        assert result.returncode in {0, 71, 73, 74}, result.stderr
        seen.add(result.returncode)
    assert {0, 71} <= seen


@pytest.mark.slow
def test_checked_build_survives_random_indexes_in_the_cache(
    checked_launcher: Path, tmp_path: Path, home: Path, run: Run, variables: dict[str, str]
) -> None:
    source = random.Random(21)  # noqa: S311
    sound = pack_of(checked_launcher.read_bytes(), PLAIN_FILES)
    path = sound.write(tmp_path / "assistant")
    variables["ASAN_OPTIONS"] = "detect_leaks=0"
    check_started(run(path))
    file = runtime_of(root_of(home), sound) / archive.INDEX_FILE
    index = file.read_bytes()
    for _ in range(100):
        file.write_bytes(changed(source, index))
        os.utime(file, (cache.COMPLETE_TIME, cache.COMPLETE_TIME))
        check_started(run(path))


@pytest.mark.slow
@pytest.mark.parametrize("portable", [False, True])
def test_sha256(tmp_path: Path, portable: bool) -> None:
    """Both implementations, at every length around the block size."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    (tmp_path / "main.c").write_text(
        '#include <stdio.h>\n#include "sha256.h"\n'
        "int main(void) { static uint8_t data[1000], digest[32];\n"
        "for (int i = 0; i < 1000; i++) data[i] = (uint8_t)(i * 7);\n"
        "for (size_t n = 0; n <= 1000; n++) { struct sha256 hash; sha256_start(&hash);\n"
        "sha256_update(&hash, data, n / 3); sha256_update(&hash, data + n / 3, n - n / 3);\n"
        "sha256_finish(&hash, digest);\n"
        'for (int i = 0; i < 32; i++) printf("%02x", digest[i]);\nputchar(10); } }\n'
    )
    flags = ["-O2", "-fsanitize=address,undefined", f"-I{SOURCES}"]
    flags += ["-DSATCHEL_PORTABLE_SHA256"] if portable else []
    program = tmp_path / "program"
    code = [tmp_path / "main.c", SOURCES / "sha256.c"]
    subprocess.run(["gcc", *flags, "-o", program, *code], check=True)
    result = subprocess.run([program], capture_output=True, text=True, check=True)
    data = bytes(i * 7 % 256 for i in range(1000))
    expected = [hashlib.sha256(data[:n]).hexdigest() for n in range(1001)]
    assert result.stdout.split() == expected
