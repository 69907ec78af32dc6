"""First starts and the cache under faults, with the real pack: nothing is lost, nothing is left.

docs/promises.md lists these tests with the number of tries and of losses.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from running_pack import (
    ASK,
    IS_ROOT,
    Place,
    address_of,
    compressed_pack,
    place,
    sample_pack,
)
from surroundings import (
    Watch,
    in_group,
    in_own_mounts,
    killed_for_memory,
    memory_limit,
    needs_strace,
    with_quota,
    without_locks,
)

from runtime_stub.cache import COMPLETE_TIME
from runtime_stub.locks import Taken, try_alone

pytestmark = [
    pytest.mark.pack,
    pytest.mark.skipif(sys.platform != "linux", reason="faults of Linux"),
]
needs_root = pytest.mark.skipif(not IS_ROOT, reason="needs root")
NOBODY = 65534
STRANGER = 12345


@pytest.fixture
def fresh(tmp_path: Path) -> Place:
    """A pack that was never started here."""
    return place(tmp_path)


@pytest.fixture
def open_place() -> Iterator[Place]:
    """A pack that other users can start, too."""
    folder = Path("/tmp") / f"satchel-open-{os.getpid()}"
    folder.mkdir(mode=0o755)
    try:
        found = place(folder)
        found.pack.unlink()
        shutil.copy2(sample_pack(), found.pack)
        found.pack.chmod(0o755)
        yield found
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def compressed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compressed_pack(tmp_path_factory.mktemp("compressed"))


def contents(root: Path) -> set[str]:
    """What lies in a cache, without the contents of runtimes."""
    return {path.name for folder in ("runtimes", "models") for path in root.glob(f"{folder}/*")}


def check_whole(there: Place) -> None:
    """One runtime and its lock, and nothing else."""
    name = there.runtime.name
    assert contents(there.cache) == {name, f"{name}.lock"}


def run_as(
    there: Place, user: int, *arguments: str, home: Path
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [there.pack, *arguments],
        user=user,
        group=user,
        extra_groups=[],
        env={"HOME": str(home), "TMPDIR": str(home)},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
        check=False,
    )


def run_mounted(
    there: Place, script: str, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        in_own_mounts(script, [there.pack, *arguments]),
        env=there.environment(**environment),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
        check=False,
    )


# Many at once


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("count", "asking"), [(24, 2), pytest.param(200, 8, marks=pytest.mark.all)]
)
def test_simultaneous_first_starts(fresh: Place, count: int, asking: int) -> None:
    """One of them extracts, the others wait; all succeed."""
    runtimes = fresh.cache / "runtimes"
    runtimes.mkdir(parents=True, mode=0o700)
    for folder in (fresh.cache.parent, fresh.cache):
        folder.chmod(0o700)
    watch = Watch(runtimes)
    processes = [
        fresh.start(*(ASK if number % (count // asking) == 0 else ["info"]))
        for number in range(count)
    ]
    outcomes = [process.communicate(timeout=600) for process in processes]
    failed = [
        errors
        for process, (_, errors) in zip(processes, outcomes, strict=True)
        if process.returncode
    ]
    assert failed == []
    assert sum("Paris" in output for output, _ in outcomes) == asking
    appeared = watch.names()
    assert len([name for name in appeared if name.startswith(".work")]) == 1, "one extraction"
    check_whole(fresh)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("tries", [8, pytest.param(50, marks=pytest.mark.all)])
def test_killed_first_starts(fresh: Place, tries: int) -> None:
    """Killed at random moments, from the first instruction to past the end of the extraction."""
    started = time.monotonic()
    fresh.run("--version")
    usual = time.monotonic() - started
    moments = random.Random(6)  # noqa: S311
    interrupted = 0
    for number in range(tries):
        shutil.rmtree(fresh.cache)
        process = fresh.start("--version")
        # Spread over the whole of it, with a little chance within each part.
        time.sleep(usual * (number + moments.random()) / tries)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        left = contents(fresh.cache)
        interrupted += any(name.startswith(".work") for name in left)
        fresh.run("--version")
        check_whole(fresh)
    assert interrupted, "none was killed in the middle of extracting"


# Power loss: data before names


def calls(trace: Path) -> list[tuple[str, str, str]]:
    """(call, its arguments, result) of a trace, in the order in which they ended."""
    text = trace.read_text(errors="surrogateescape")
    pending: dict[str, str] = {}
    found = []
    for line in text.splitlines():
        process, _, rest = line.partition(" ")
        rest = rest.strip()
        if rest.endswith("<unfinished ...>"):
            pending[process] = rest.removesuffix("<unfinished ...>")
            continue
        resumed = re.match(r"<\.\.\. \w+ resumed>(.*)", rest)
        if resumed:
            rest = pending.pop(process, "") + resumed[1]
        whole = re.match(r"(\w+)\((.*)\)\s+= (.*)", rest)
        if whole:
            found.append((whole[1], whole[2], whole[3]))
    return found


def test_a_runtime_is_on_disk_before_it_has_its_name(fresh: Place, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    subprocess.run(
        [
            *(needs_strace(), "-f", "-y", "-e", "trace=openat,write,fsync,renameat,rename"),
            *("-s", "8", "-o", trace, fresh.pack, "--version"),
        ],
        env=fresh.environment(),
        check=True,
        capture_output=True,
    )
    synced: set[str] = set()
    renamed = after = ""
    for name, arguments, result in calls(trace):
        assert renamed == "" or name != "write" or ".work-" not in arguments
        if name == "fsync" and result.startswith("0"):
            path = arguments.partition("<")[2].rstrip("> ")
            if renamed:
                after = path
                break
            synced.add(path)
        elif name.startswith("rename") and ".work-" in arguments and result == "0":
            renamed = re.findall(r'"([^"]+)"', arguments)[0]
    work = str(fresh.cache / "runtimes" / renamed)
    wanted = {str(path).replace(str(fresh.runtime), work) for path in fresh.runtime.rglob("*")}
    assert len(wanted) > 100
    assert wanted | {work} <= synced
    assert after == str(fresh.cache / "runtimes"), "the new name itself"


def test_a_model_is_on_disk_before_it_has_its_name(compressed: Path, tmp_path: Path) -> None:
    there = place(tmp_path, source=compressed)
    there.run("--version")
    trace = tmp_path / "trace"
    subprocess.run(
        [
            *(needs_strace(), "-f", "-y", "-e", "trace=write,utimensat,fsync,rename"),
            *("-s", "8", "-o", trace, there.pack, *ASK),
        ],
        env=there.environment(),
        check=True,
        capture_output=True,
    )
    (model,) = (there.cache / "models").glob("*.gguf")
    part = str(model.with_suffix(".part"))
    order = [name for name, text, _ in calls(trace) if part in text or name == "rename"]
    assert order[-3:] == ["utimensat", "fsync", "rename"]
    assert set(order[:-3]) == {"write"}


# Disks, folders, file systems


@needs_root
def test_read_only_home(fresh: Place) -> None:
    """The next candidate is the folder beside the pack."""
    script = f"mount --bind {fresh.home} {fresh.home}; mount -o remount,ro,bind {fresh.home}"
    result = run_mounted(fresh, script, *ASK)
    assert (result.returncode, "Paris" in result.stdout) == (0, True), result.stderr
    assert (fresh.pack.parent / ".satchel-cache" / "runtimes").is_dir()
    assert list(fresh.home.iterdir()) == [fresh.home / "tmp"]


@needs_root
def test_no_home(open_place: Place) -> None:
    """A user of whom the system knows nothing but the number, and an environment without HOME."""
    folder = open_place.home.parent / "tmp"
    folder.mkdir(mode=0o1777)
    folder.chmod(0o1777)
    result = subprocess.run(
        [open_place.pack, *ASK],
        user=STRANGER,
        group=STRANGER,
        extra_groups=[],
        env={"TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
        check=False,
    )
    assert (result.returncode, "Paris" in result.stdout) == (0, True), result.stderr
    assert (folder / f"satchel-{STRANGER}" / "runtimes").is_dir()


@needs_root
def test_pack_on_a_read_only_medium(fresh: Place, tmp_path: Path) -> None:
    """And no home: the temporary folder is left."""
    medium = tmp_path / "medium"
    medium.mkdir()
    script = (
        f"mount -t tmpfs none {medium}; cp {fresh.pack} {medium}/pack; "
        f'mount -o remount,ro {medium}; shift; set -- {medium}/pack "$@"'
    )
    result = run_mounted(fresh, script, "info", "--json", HOME="/nonexistent/home")
    assert result.returncode == 0, result.stderr
    root = json.loads(result.stdout)["runtime"]["cache"]
    # Root may make even /nonexistent; nobody else could.
    assert root.startswith((str(fresh.home / "tmp"), "/nonexistent"))
    shutil.rmtree("/nonexistent", ignore_errors=True)


@needs_root
def test_noexec_cache_and_temporary_folder(fresh: Place) -> None:
    script = f"mount -t tmpfs -o noexec,mode=700 none {fresh.home}; mkdir {fresh.home}/tmp"
    result = run_mounted(fresh, script, *ASK)
    assert (result.returncode, "Paris" in result.stdout) == (0, True), result.stderr
    assert (fresh.pack.parent / ".satchel-cache" / "runtimes").is_dir()


@needs_root
def test_no_folder_at_all(fresh: Place) -> None:
    """Each candidate is named with what is wrong with it."""
    folder = fresh.pack.parent
    script = f"mount --bind {folder} {folder}; mount -o remount,ro,bind {folder}"
    result = run_mounted(fresh, script, *ASK)
    assert result.returncode == 72
    assert result.stderr.count("Read-only file system") == 3
    assert result.stderr.count("\n") == 1
    assert "Set SATCHEL_CACHE" in result.stderr


@needs_root
@pytest.mark.parametrize(("size", "code"), [("20m", 73), ("80m,nr_inodes=50", 73), ("80m", 8)])
def test_full_disk(compressed: Path, tmp_path: Path, size: str, code: int) -> None:
    """No room for the runtime, no room while it is written, none for the model."""
    there = place(tmp_path, source=compressed)
    disk = tmp_path / "disk"
    disk.mkdir()
    look = f"'{there.pack}' --satchel-cache {disk} ask hello || code=$?; find {disk} -name '.work*'"
    script = f"mount -t tmpfs -o mode=700,size={size} none {disk}; {look}; exit $code;"
    result = run_mounted(there, script)
    assert result.returncode == code, result.stderr
    assert result.stderr.count("\n") == 1
    assert "Free some" in result.stderr
    assert result.stdout == "", "work folders that were left behind"


@needs_root
@pytest.mark.parametrize(("size", "code"), [("20M", 73), ("110M", 8)])
def test_quota(compressed: Path, tmp_path: Path, size: str, code: int) -> None:
    """Used up while the runtime, or the model, is written to the one folder that was chosen."""
    there = place(tmp_path, source=compressed)
    disk = tmp_path / "disk"
    mounting = with_quota(disk, size)
    look = f"'{there.pack}' --satchel-cache {disk}/home ask hello || code=$?"
    script = (
        f"{mounting} {look}; find {disk} -name '.work*'; df -BM --output=avail {disk}; exit $code;"
    )
    result = run_mounted(there, script)
    assert result.returncode == code, result.stderr
    assert result.stderr.count("\n") == 1
    assert "quota" in result.stderr
    assert "Free some" in result.stderr
    left, room = result.stdout.rsplit("Avail\n", 1)
    assert left == "", "work folders that were left behind"
    assert int(room.strip().rstrip("M")) > 150, "the disk itself was never full"


@needs_root
@pytest.mark.parametrize("size", ["20M", "110M"])
def test_quota_of_a_home(compressed: Path, tmp_path: Path, size: str) -> None:
    """What does not fit there goes to the next folder, and the home is as before."""
    there = place(tmp_path, source=compressed)
    disk = tmp_path / "disk"
    mounting = with_quota(disk, size)
    look = f'"$@"; code=$?; find {disk} -name "*.gguf" -o -name "*.part" -o -name ".work*"'
    script = f"{mounting} {look}; exit $code;"
    result = run_mounted(there, script, *ASK, HOME=f"{disk}/home")
    assert (result.returncode, result.stdout.count("Paris")) == (0, 1), result.stderr
    assert len(result.stdout.splitlines()) == 1, "only the answer, and no files"
    beside = there.pack.parent / ".satchel-cache"
    assert len(list(beside.glob("models/*.gguf"))) == 1
    assert len(list(beside.glob("runtimes/*/satchel-runtime"))) == (size == "20M")


def test_a_file_system_without_locks(fresh: Place) -> None:
    """More than one may extract then, but none disturbs another."""
    processes = [
        subprocess.Popen(
            [fresh.pack, "info"],
            env=fresh.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=without_locks,  # noqa: PLW1509
        )
        for _ in range(8)
    ]
    outcomes = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * 8, outcomes
    check_whole(fresh)


def test_cache_paths_that_are_not_utf8_are_passed_over(tmp_path: Path) -> None:
    """Python can't be started from there; the pack itself may lie there."""
    folder = tmp_path / os.fsdecode(b"\xff\xfe")
    folder.mkdir()
    there = place(folder)
    with_home = there.run("info", "--json", TMPDIR=str(tmp_path))
    assert json.loads(with_home.stdout)["runtime"]["cache"].startswith(str(tmp_path / "satchel-"))
    result = there.run("info", check=False)
    assert result.returncode == 72
    assert result.stderr.count("its path is not UTF-8 text") == 3


@pytest.mark.parametrize("name", [b"x" * 255, b"not UTF-8 \xff\xfe", "ü 名 \t".encode()])
def test_odd_paths(tmp_path: Path, name: bytes) -> None:
    """In the pack's name, its folder's and the cache's."""
    folder = tmp_path / os.fsdecode(name)
    folder.mkdir()
    there = place(folder)
    odd = Place(there.pack.rename(there.pack.with_name(os.fsdecode(name))), there.home)
    assert "Paris" in odd.run(*ASK, TMPDIR=str(tmp_path)).stdout
    for command in (["info"], ["info", "--json"], ["cache", "show"], ["verify"]):
        assert odd.run(*command, TMPDIR=str(tmp_path)).stdout
    result = odd.run("ask", check=False, TMPDIR=str(tmp_path))
    assert result.returncode == 3
    assert result.stderr.count("\n") == 1


def test_from_another_folder(fresh: Place, tmp_path: Path) -> None:
    other = tmp_path / "a" / "b"
    other.mkdir(parents=True)
    relative = os.path.relpath(fresh.pack, other)
    result = subprocess.run(
        [relative, *ASK],
        cwd=other,
        env=fresh.environment(SATCHEL_CACHE="../cache"),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
        check=True,
    )
    assert "Paris" in result.stdout
    assert (tmp_path / "a" / "cache" / "runtimes").is_dir()


@pytest.mark.parametrize("skew", [-3 * 365, -1, 1, 3 * 365])
def test_clock_set_back_or_ahead(fresh: Place, skew: int) -> None:
    """Stamps from before the clock was put right neither make it extract again nor remove it."""
    fresh.run("--version")
    before = fresh.runtime.stat().st_ino
    stamp = fresh.runtime.with_suffix(".lock")
    when = time.time() + skew * 24 * 3600
    os.utime(stamp, (when, when))
    assert "0 bytes freed" in fresh.run("cache", "prune").stdout
    fresh.run("--version")
    assert fresh.runtime.stat().st_ino == before
    assert abs(stamp.stat().st_mtime - time.time()) < 2 * 24 * 3600


# Other users


@needs_root
def test_as_another_user(open_place: Place) -> None:
    home = open_place.home.parent / "other"
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    result = run_as(open_place, NOBODY, *ASK, home=home)
    assert (result.returncode, "Paris" in result.stdout) == (0, True), result.stderr
    runtime = next((home / ".cache" / "satchel" / "runtimes").glob("*[0-9a-f]"))
    assert runtime.stat().st_uid == NOBODY


@needs_root
@pytest.mark.parametrize("planted", ["folder", "link", "whole cache"])
def test_anothers_folder_where_the_cache_should_be(open_place: Place, planted: str) -> None:
    """What a stranger has put there is neither used nor written to; the next folder is taken."""
    home = open_place.home.parent / "other"
    (home / ".cache").mkdir(parents=True)
    cache = home / ".cache" / "satchel"
    theirs = open_place.home.parent / "theirs"
    if planted == "whole cache":
        run_as(open_place, 0, "--version", home=home)
        evil = next(cache.glob("runtimes/*/satchel-runtime"))
        facts = evil.stat()
        evil.write_bytes(b"#!/bin/sh\necho owned\n".ljust(facts.st_size))
        os.utime(evil, (COMPLETE_TIME, COMPLETE_TIME))
        for path in [cache, *cache.rglob("*")]:
            os.chown(path, STRANGER, STRANGER)
    else:
        theirs.mkdir(mode=0o777)
        os.chown(theirs, STRANGER, STRANGER)
        theirs.rename(cache) if planted == "folder" else cache.symlink_to(theirs)
        os.chown(cache, STRANGER, STRANGER, follow_symlinks=False)
    os.chown(home, NOBODY, NOBODY)
    before = sorted(cache.rglob("*"))
    result = run_as(open_place, NOBODY, "info", "--json", home=home)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["runtime"]["cache"] == str(home / f"satchel-{NOBODY}")
    assert sorted(cache.rglob("*")) == before


# Memory


def run_limited(group: Path, there: Place, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        in_group(group, [there.pack, *arguments]),
        env=there.environment(),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("nested", [False, True])
def test_in_512_megabytes(fresh: Place, nested: bool) -> None:
    """The first start, too; and in a group without a limit of its own, inside of one."""
    with memory_limit(512 << 20) as group:
        inner = group / "inner"
        if nested:
            inner.mkdir()
        place_of = inner if nested else group
        result = run_limited(place_of, fresh, *ASK)
        assert (result.returncode, "Paris" in result.stdout) == (0, True), result.stderr
        machine = json.loads(run_limited(place_of, fresh, "info", "--json").stdout)["machine"]
        assert machine["memory_total"] == 512 << 20
        assert 256 << 20 < machine["memory_available"] < 512 << 20
        assert killed_for_memory(group) == 0


def test_what_needs_more_than_512_megabytes_is_refused(fresh: Place) -> None:
    """With a reason, before it is begun."""
    with memory_limit(512 << 20) as group:
        result = run_limited(group, fresh, "serve", "--port", "0", "--context", "32768")
        assert result.returncode == 10, result.stderr
        assert "32,768 tokens needs" in result.stderr
        assert "MB are free" in result.stderr
        assert killed_for_memory(group) == 0


# Altered behind our back


def test_verify_finds_an_altered_runtime_and_it_is_repaired(fresh: Place) -> None:
    """Size and time are as they were, so that a start can't see it."""
    fresh.run("--version")
    library = next(fresh.runtime.rglob("libggml-base.so"))
    content, facts = library.read_bytes(), library.stat()
    with library.open("r+b") as file:
        file.seek(facts.st_size // 2)
        file.write(b"altered!")
    os.utime(library, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    result = fresh.run("verify", check=False)
    assert result.returncode == 6
    assert f"{library} was changed" in result.stdout
    assert "It will be extracted again by itself" in result.stderr
    fresh.run("verify")
    assert library.read_bytes() == content


def test_a_model_that_fails_to_load_is_looked_at_and_repaired(
    compressed: Path, tmp_path: Path
) -> None:
    there = place(tmp_path, source=compressed)
    there.run("--version")
    assert "Paris" in there.run(*ASK).stdout
    (model,) = (there.cache / "models").glob("*.gguf")
    facts = model.stat()
    with model.open("r+b") as file:
        file.write(b"FUGG")
    os.utime(model, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    result = there.run(*ASK, check=False)
    assert result.returncode == 10
    assert "was changed. It will be extracted again by itself: start anew" in result.stderr
    assert "Paris" in there.run(*ASK).stdout


# In use


@contextmanager
def serving(there: Place) -> Iterator[subprocess.Popen[str]]:
    server = there.start("serve", "--port", "0")
    try:
        address_of(server)
        yield server
    finally:
        server.kill()
        server.communicate()


def test_a_runtime_in_use_is_locked(fresh: Place) -> None:
    """By the running process itself: the lock goes with it, however it ends."""
    with serving(fresh):
        with try_alone(fresh.runtime) as taken:
            assert taken is Taken.NO
        assert "kept runtime" in fresh.run("cache", "clear").stdout
    # Its engine, a process of its own, ends when it finds the server gone.
    until = time.monotonic() + 20
    while time.monotonic() < until:
        with try_alone(fresh.runtime) as taken:
            if taken is Taken.YES:
                return
        time.sleep(0.1)
    pytest.fail("the lock outlived its holder")


def test_clearing_leaves_what_another_pack_uses(compressed: Path, tmp_path: Path) -> None:
    there = place(tmp_path, source=compressed)
    there.run(*ASK)
    (model,) = (there.cache / "models").glob("*.gguf")
    with serving(there) as server:
        said = ""
        until = time.monotonic() + 60
        while not said and time.monotonic() < until:  # its engine has yet to open the model
            with try_alone(model) as taken:
                if taken is Taken.NO:
                    said = there.run("cache", "clear").stdout
        assert f"kept model {model}: a running pack uses it" in said
        assert model.exists()
        server.send_signal(signal.SIGTERM)
        server.wait(30)
    assert f"removed model {model}" in there.run("cache", "clear").stdout
    assert "Paris" in there.run(*ASK).stdout


def test_a_newer_version_prunes_what_is_unused(fresh: Place) -> None:
    month = 31 * 24 * 3600
    root = fresh.cache / "runtimes"
    for name in ("1" * 64, "2" * 64, "3" * 64):
        (root / name).mkdir(parents=True, mode=0o700)
        (root / name / "file").write_text("old")
        stamp = (root / name).with_suffix(".lock")
        stamp.touch()
        os.utime(stamp, (time.time() - month,) * 2)
    for folder in (fresh.cache.parent, fresh.cache, root):
        folder.chmod(0o700)
    os.utime(root / f"{'2' * 64}.lock")
    with subprocess.Popen(["flock", "-s", root / ("3" * 64), "sleep", "60"]) as user:
        time.sleep(0.5)
        fresh.run("--version")
        left = {path.name for path in root.iterdir() if path.is_dir()}
        assert left == {"2" * 64, "3" * 64, fresh_name(fresh)}
        user.kill()


def fresh_name(there: Place) -> str:
    """Name of the extracted runtime, among stand-ins for older ones."""
    return next(
        path.name
        for path in (there.cache / "runtimes").iterdir()
        if (path / "satchel-runtime").exists()
    )
