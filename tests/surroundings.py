"""Surroundings in which things go wrong: mounts, kernels, limits and users of a test's own."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

IN_CREATE, IN_MOVED_TO = 0x100, 0x80
_EVENT = struct.Struct("iIII")
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_X86_64_FLOCK = 73


def in_own_mounts(script: str, command: Sequence[str | Path]) -> list[str]:
    """`command`, run after the shell `script` has mounted things that only it can see."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("mounting needs root")
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-ec"]
    if subprocess.run([*words, "true"], check=False, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    return [*words, f'{script}\nexec "$@"', "sh", *map(str, command)]


def with_quota(folder: Path, size: str) -> str:
    """A script for `in_own_mounts`: the folder "home" within `folder` may hold `size` at most,
    though its disk has room for more. A quota of Btrfs, as the kernel keeps it.

    Skips the test where that can't be had.
    """
    if not (shutil.which("mkfs.btrfs") and shutil.which("btrfs") and shutil.which("mount")):
        pytest.skip("btrfs-progs is not installed")
    image = folder.with_suffix(".img")
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(512 << 20)
    subprocess.run(["mkfs.btrfs", "--quiet", image], check=True, capture_output=True)
    script = (
        f"mount -o loop {image} {folder}; btrfs quota enable {folder}; "
        f"btrfs subvolume create {folder}/home > /dev/null; chmod 700 {folder}/home; "
        f"btrfs qgroup limit {size} {folder}/home;"
    )
    tried = subprocess.run(
        in_own_mounts(script, ["true"]), check=False, capture_output=True, text=True
    )
    if tried.returncode:
        pytest.skip(f"no quota can be had here: {tried.stderr.strip()}")
    # It was kept by the first try, in which nothing was written to it.
    return f"mount -o loop {image} {folder};"


class Watch:
    """Names that appear in a folder, as the kernel saw them: no polling misses any."""

    def __init__(self, folder: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.inotify_init1(os.O_NONBLOCK)
        mask = IN_CREATE | IN_MOVED_TO
        watch = self._libc.inotify_add_watch(self._descriptor, os.fsencode(folder), mask)
        assert watch >= 0, os.strerror(ctypes.get_errno())

    def names(self) -> list[str]:
        """What appeared, in order; ends the watch."""
        found: list[str] = []
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._descriptor, 1 << 16):
                position = 0
                while position < len(data):
                    length = _EVENT.unpack_from(data, position)[3]
                    position += _EVENT.size
                    found.append(data[position : position + length].rstrip(b"\0").decode())
                    position += length
        os.close(self._descriptor)
        return found


def without_locks() -> None:
    """From now on, for this process and its children, every flock fails as on a file system
    that has none. For `preexec_fn`."""
    libc = ctypes.CDLL(None, use_errno=True)

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))

    rows = [
        (0x20, 0, 0, 0),  # the number of the call
        (0x15, 0, 1, _X86_64_FLOCK),
        (0x06, 0, 0, 0x00050000 | 95),  # an error: operation not supported
        (0x06, 0, 0, 0x7FFF0000),  # allowed
    ]
    code = b"".join(struct.pack("HBBI", *row) for row in rows)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    program = Program(len(rows), code)
    if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program)):
        os._exit(99)


@contextlib.contextmanager
def memory_limit(size: int) -> Iterator[Path]:
    """A control group of at most `size` bytes; its file `cgroup.procs` takes processes in."""
    root = Path("/sys/fs/cgroup")
    old = root / "memory"
    group = (old if old.is_dir() else root) / f"satchel-test-{os.getpid()}"
    limit = "memory.limit_in_bytes" if old.is_dir() else "memory.max"
    try:
        group.mkdir()
        (group / limit).write_text(str(size))
    except OSError as error:
        with contextlib.suppress(OSError):
            group.rmdir()
        pytest.skip(f"no control group can be made here: {error}")
    # No swap, where there is any.
    for name, value in (("memory.memsw.limit_in_bytes", str(size)), ("memory.swap.max", "0")):
        with contextlib.suppress(OSError):
            if (group / name).exists():
                (group / name).write_text(value)
    try:
        yield group
    finally:
        for folder in (*(path for path in group.iterdir() if path.is_dir()), group):
            until = time.monotonic() + 30
            while processes := (folder / "cgroup.procs").read_text().split():
                assert time.monotonic() < until
                for process in processes:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(process), signal.SIGKILL)
                time.sleep(0.02)
            folder.rmdir()


def killed_for_memory(group: Path) -> int:
    """How many processes of a control group the kernel has killed for want of memory."""
    old = group / "memory.oom_control"
    text = (old if old.exists() else group / "memory.events").read_text()
    counts = dict(line.split(" ", 1) for line in text.splitlines() if " " in line)
    return int(counts["oom_kill"])


def in_group(group: Path, command: Sequence[str | Path]) -> list[str | Path]:
    """`command`, run within a control group."""
    return ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh", *command]


def needs_strace() -> str:
    """The path of strace; skips the test where it is missing or not allowed."""
    path = shutil.which("strace")
    if path is None or sys.platform != "linux":
        pytest.skip("strace is not installed")
    if subprocess.run([path, "true"], check=False, capture_output=True).returncode:
        pytest.skip("tracing is not allowed here")
    return path
