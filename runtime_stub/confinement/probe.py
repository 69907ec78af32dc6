"""Tries what a confined process must not do, from inside it, and tells what the kernel answered.

Nothing leaves the machine even where it is allowed: calls are made with arguments that come to
nothing, files that could be made are removed again.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import mmap
import os
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from runtime_stub.confinement.syscalls import call, machine, number

_MSG_FASTOPEN = 0x20000000
_REFUSALS = (errno.EPERM, errno.EACCES)
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENXIO, errno.ENODEV)
_TIOCSTI = 0x5412
_VSOCK, _PACKET, _NETLINK = 40, 17, 16
_SOMEWHERE = "192.0.2.1"  # set aside for documentation: nobody is there
_I386_GETPID = bytes((0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0xC3))
"""mov eax, 20; int 0x80; ret: the same kernel by its 32-bit door."""


@dataclass(frozen=True)
class Attempt:
    """What was tried, and how it ended."""

    name: str
    answer: str
    """"refused", "allowed", "absent" (there was nothing to try it on), or else the name of the
    error that shows the kernel went further than a refusal."""


@dataclass(frozen=True)
class Places:
    """Where to try."""

    home: Path
    pack: Path


def probe(places: Places) -> list[Attempt]:
    """Everything that is to be refused, tried in a thread of its own."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(_probe, places).result()


def _probe(places: Places) -> list[Attempt]:
    return [Attempt(name, _answer(attempt)) for name, attempt in _attempts(places)]


def _answer(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except OSError as error:
        if error.errno in _REFUSALS:
            return "refused"
        if error.errno in _ABSENT:
            return "absent"
        return errno.errorcode.get(error.errno or 0, str(error))
    return "allowed"


def _attempts(places: Places) -> Iterator[tuple[str, Callable[[], object]]]:
    yield from _network()
    yield from _detours()
    yield from _files(places)
    yield "start a program", lambda: _start("/bin/true")
    if os.getppid() > 0:  # else it lives in another container
        yield "signal its parent", lambda: os.kill(os.getppid(), 0)
    yield "type into the terminal", lambda: call("ioctl", 0, _TIOCSTI, 0)


def _network() -> Iterator[tuple[str, Callable[[], object]]]:
    stream = socket.SOCK_STREAM
    families = (
        ("TCP socket", socket.AF_INET, stream),
        ("UDP socket", socket.AF_INET, socket.SOCK_DGRAM),
        ("IPv6 socket", socket.AF_INET6, stream),
        ("Unix socket", socket.AF_UNIX, stream),
        ("netlink socket", _NETLINK, socket.SOCK_RAW),
        ("packet socket", _PACKET, socket.SOCK_RAW),
        ("vsock socket", _VSOCK, stream),
    )
    for name, family, kind in families:
        yield name, functools.partial(_open_socket, family, kind)
    address = struct.pack("=H", socket.AF_INET) + struct.pack(
        "!H4s8x", 9, socket.inet_aton(_SOMEWHERE)
    )
    yield "datagram pair", lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with contextlib.ExitStack() as stack:
        ends = socket.socketpair()
        for each in ends:
            stack.enter_context(each)
        end = ends[0].fileno()
        data = b"x"
        header = ctypes.create_string_buffer(56)
        yield "connect", lambda: call("connect", end, address, len(address))
        yield "sendto an address", lambda: call("sendto", end, data, 1, 0, address, len(address))
        yield "sendto with fast open", lambda: call("sendto", end, data, 1, _MSG_FASTOPEN, None, 0)
        yield "sendmsg with fast open", lambda: call("sendmsg", end, header, _MSG_FASTOPEN)
        yield "sendmmsg", lambda: call("sendmmsg", end, None, 0, 0)
        yield "bind", lambda: call("bind", end, address, len(address))


def _detours() -> Iterator[tuple[str, Callable[[], object]]]:
    parameters = ctypes.create_string_buffer(256)
    ring = lambda: os.close(call("io_uring_setup", 1, parameters))  # noqa: E731
    yield "io_uring", ring
    if machine() == "x86_64":
        x32 = (number("getpid") or 0) | 0x40000000
        yield "x32 system call", lambda: call(x32)
        yield "i386 system call", _call_i386
    yield "ptrace", lambda: call("ptrace", 16, 0, 0, 0)
    yield "another's memory", lambda: call("process_vm_readv", os.getpid(), None, 0, None, 0, 0)
    yield "another's descriptor", lambda: call("pidfd_getfd", -1, 0, 0)
    yield "bpf", lambda: call("bpf", 0, None, 0)
    yield "key ring", lambda: call("keyctl", 0, -3, 0)
    yield "userfaultfd", lambda: os.close(call("userfaultfd", 0))
    yield "mount", lambda: call("mount", None, None, None, 0, None)
    yield "new namespace", lambda: call("unshare", 0)


def _files(places: Places) -> Iterator[tuple[str, Callable[[], object]]]:
    yield "read /etc/passwd", lambda: os.close(os.open("/etc/passwd", os.O_RDONLY))
    yield "list the root folder", lambda: next(Path("/").iterdir(), None)
    yield "list the home folder", lambda: next(places.home.iterdir(), None)
    yield "list the pack's folder", lambda: next(places.pack.parent.iterdir(), None)
    yield "its parent's environment", lambda: Path(f"/proc/{os.getppid()}/environ").read_bytes()
    for name, folder in (
        ("the home folder", places.home),
        ("the temporary folder", Path(os.environ.get("TMPDIR") or "/tmp")),  # noqa: S108
        ("the pack's folder", places.pack.parent),
    ):
        yield f"write to {name}", functools.partial(_write, folder)
    yield "change the pack", lambda: os.close(os.open(places.pack, os.O_WRONLY))


def _open_socket(family: int, kind: int) -> None:
    os.close(call("socket", family, kind, 0))


def _write(folder: Path) -> None:
    path = folder / f".satchel-probe-{os.getpid()}"
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    path.unlink()


def _start(program: str) -> None:
    os.waitpid(os.posix_spawn(program, [program], {}), 0)


def _call_i386() -> None:
    """Raises OSError for a refusal; ENOSYS where the kernel has no such door."""
    with mmap.mmap(
        -1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    ) as page:
        page.write(_I386_GETPID)
        first = ctypes.c_char.from_buffer(page)
        result = int(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(first))())
        del first  # the page can't be given back while something points into it
    if result < 0:
        raise OSError(-result, os.strerror(-result))
