"""What each command may do once it has what it needs.

ask, chat   files: read the pack and its runtime, write the cache (chat: its history);
            no socket, no other program
serve       the same; takes connections on the socket it has, starts its engine
engine      the same as ask, on top of what serve allows it
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from runtime_stub.confinement.landlock import READ, RUN, TERMINAL, WRITE, Grant
from runtime_stub.confinement.seccomp import (
    REFUSED,
    Rule,
    any_bits,
    differs,
    equals,
    given,
    no_bits,
)

_AF_UNIX, _SOCK_STREAM, _KIND_MASK = 1, 1, 0xF
_MSG_FASTOPEN = 0x20000000
_CLONE_THREAD = 0x10000
_NEW_NAMESPACES = 0x7E020080
"""Every CLONE_NEW flag that clone takes: time has none there."""
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C

_NETWORK = {
    "socket": REFUSED,
    "socketpair": Rule((differs(0, _AF_UNIX), differs(1, _SOCK_STREAM, _KIND_MASK))),
    "connect": REFUSED,
    "bind": REFUSED,
    # With an address, or opening a connection by the way.
    "sendto": Rule((given(4), any_bits(3, _MSG_FASTOPEN))),
    "sendmsg": Rule((any_bits(2, _MSG_FASTOPEN),)),
    "sendmmsg": REFUSED,
}
_SERVING = ("listen", "accept", "accept4")
_STARTING = {
    "execve": REFUSED,
    "execveat": REFUSED,
    "fork": REFUSED,
    "vfork": REFUSED,
    "clone": Rule((no_bits(0, _CLONE_THREAD), any_bits(0, _NEW_NAMESPACES))),
}
# Does what other calls do, unseen by any filter.
_RINGS = "io_uring_setup io_uring_enter io_uring_register"
_OTHER_PROCESSES = "ptrace process_vm_readv process_vm_writev process_madvise pidfd_getfd kcmp"
_KERNEL = (
    "bpf perf_event_open userfaultfd keyctl add_key request_key init_module finit_module "
    "delete_module kexec_load kexec_file_load iopl ioperm modify_ldt syslog"
)
_FILE_SYSTEMS = (
    "mount umount2 pivot_root chroot move_mount open_tree open_tree_attr fsopen fsconfig "
    "fsmount fspick mount_setattr open_by_handle_at fanotify_init quotactl quotactl_fd "
    "swapon swapoff acct unshare setns"
)
_MACHINE = (
    "reboot settimeofday clock_settime clock_adjtime adjtimex sethostname setdomainname vhangup"
)
_ALWAYS = {
    **dict.fromkeys(
        f"{_RINGS} {_OTHER_PROCESSES} {_KERNEL} {_FILE_SYSTEMS} {_MACHINE}".split(), REFUSED
    ),
    # Typing into the terminal: the shell would read it once we are gone.
    "ioctl": Rule((equals(1, _TIOCSTI), equals(1, _TIOCLINUX))),
    # Its flags lie in memory, where no filter sees them; the C library takes clone instead.
    "clone3": Rule(error=errno.ENOSYS),
    "clone": Rule((any_bits(0, _NEW_NAMESPACES),)),
}

_MACHINE_FILES = (
    "/proc/meminfo",
    "/proc/cpuinfo",
    "/proc/stat",
    "/proc/sys/vm/overcommit_memory",
    "/sys/devices/system",
    "/sys/fs/cgroup",
    "/dev/urandom",
    "/dev/random",
    "/etc/localtime",
    "/usr/lib/locale",
)


@dataclass(frozen=True)
class Policy:
    """The limits of one process."""

    grants: tuple[Grant, ...]
    """Files it may touch."""
    rules: dict[str, Rule]
    """System calls it may not make, by name."""


@dataclass(frozen=True)
class Surroundings:
    """The files that a pack works with."""

    descriptors: tuple[int, ...]
    """The pack, and what lies beside it."""
    runtime: Path
    cache: tuple[Path, ...]
    """Its folders, whether they exist or not."""


def closed(files: Surroundings, writable: Iterable[Path] = ()) -> Policy:
    """For `ask`, `chat` and the engine: computes, and that is all. `writable` are folders it
    may write to beside the cache."""
    rules = {**_ALWAYS, **_NETWORK, **dict.fromkeys(_SERVING, REFUSED), **_STARTING}
    return Policy((*_files(files, writable, run=False), Grant(Path("/proc/self"), READ)), rules)


def serving(files: Surroundings) -> Policy:
    """For `serve`, once it listens: takes connections, and starts the pack again as engine.

    The engine reads facts about itself in /proc, and can't be allowed what this one is not.
    """
    grants = (*_files(files, (), run=True), Grant(Path("/proc"), READ))
    return Policy(grants, {**_ALWAYS, **_NETWORK})


def _files(files: Surroundings, writable: Iterable[Path], *, run: bool) -> list[Grant]:
    read = RUN if run else READ
    return [
        *(Grant(descriptor, read) for descriptor in files.descriptors),
        Grant(files.runtime, read),
        # The launcher extracts the runtime again if it is gone when the engine is restarted.
        *(Grant(folder, WRITE | read) for folder in files.cache),
        *(Grant(folder, WRITE) for folder in writable),
        *(Grant(Path(path), READ) for path in _MACHINE_FILES),
        Grant(Path("/dev/null"), TERMINAL),
        Grant(Path("/dev/tty"), TERMINAL),
    ]
