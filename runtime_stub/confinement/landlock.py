"""Landlock: which files a process may touch, and whom it may signal, by its own decision.

What is granted is granted below a path, to this process and all it starts; it can never be
taken back. Only threads that exist afterwards are bound, so there must be no other yet.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from runtime_stub.confinement.syscalls import call, forbid_new_privileges, machine

EXECUTE = 1 << 0
WRITE_FILE = 1 << 1
READ_FILE = 1 << 2
READ_DIR = 1 << 3
REMOVE_DIR = 1 << 4
REMOVE_FILE = 1 << 5
MAKE_DIR = 1 << 7
MAKE_REG = 1 << 8
REFER = 1 << 13
TRUNCATE = 1 << 14
IOCTL_DEV = 1 << 15

READ = READ_FILE | READ_DIR
RUN = READ | EXECUTE
WRITE = READ | WRITE_FILE | TRUNCATE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | REFER
TERMINAL = READ_FILE | WRITE_FILE | IOCTL_DEV

PARTS: tuple[tuple[int, str, str], ...] = (
    (1, "files", "reading, writing and running files"),
    (2, "moving files", "moving files between folders"),
    (3, "truncation", "cutting files short"),
    (4, "TCP ports", "listening on and connecting to TCP ports"),
    (5, "devices", "commands to devices"),
    (6, "signals", "signals and abstract sockets to programs outside"),
)
"""What each version of the kernel's interface added: its number, a name, and what it governs."""

_FILES_OF = {1: (1 << 13) - 1, 2: REFER, 3: TRUNCATE, 5: IOCTL_DEV}
_TCP = 0b11
_SCOPES = 0b11
_FOR_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
_VERSION_FLAG = 1
_RULE_PATH_BENEATH = 1


@dataclass(frozen=True)
class Grant:
    """What may be done with a file, or with everything below a folder."""

    where: Path | int
    """A path, or the descriptor of an open file: then it holds wherever that file has gone."""
    rights: int


def version() -> tuple[int, str]:
    """The version of the kernel's interface, 0 with the reason where there is none."""
    if not machine():
        return 0, "this system has no Landlock"
    try:
        return call("landlock_create_ruleset", None, 0, _VERSION_FLAG), ""
    except OSError as error:
        if error.errno == errno.ENOSYS:
            return 0, "this kernel was built without Landlock (Linux 5.13 has it)"
        if error.errno == errno.EOPNOTSUPP:
            return 0, "Landlock is switched off: add landlock to the kernel's lsm= list"
        return 0, f"the kernel or the container refuses it ({error.strerror})"


def restrict(grants: Iterable[Grant], abi: int) -> None:
    """Bind this thread, and all that will come of it, to `grants`; what a kernel of version
    `abi` does not govern stays free. Paths that are not there are skipped. Raises OSError."""
    handled = sum(rights for since, rights in _FILES_OF.items() if since <= abi)
    fields = [handled]
    if abi >= 4:
        fields.append(_TCP)
    if abi >= 6:
        fields.append(_SCOPES)
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    ruleset = call("landlock_create_ruleset", attributes, len(attributes), 0)
    try:
        for grant in grants:
            _add(ruleset, grant, handled)
        forbid_new_privileges()
        call("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)


def _add(ruleset: int, grant: Grant, handled: int) -> None:
    descriptor = grant.where
    if isinstance(descriptor, Path):
        try:
            descriptor = os.open(descriptor, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return
    try:
        rights = grant.rights & handled
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= _FOR_FILES
        rule = struct.pack("=Qi", rights, descriptor)
        call("landlock_add_rule", ruleset, _RULE_PATH_BENEATH, rule, 0)
    except OSError as error:
        if error.errno != errno.EBADFD:  # a file in memory, which is not governed anyway
            raise
    finally:
        if isinstance(grant.where, Path):
            os.close(descriptor)
