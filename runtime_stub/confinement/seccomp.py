"""seccomp: a filter over system calls, as a program for the kernel (classic BPF).

    wrong machine, x32, i386 ──> refused
    number of a rule         ──> one of its tests holds: refused; none holds: allowed
    anything else            ──> allowed

Each instruction is 8 bytes: code u16, two jumps u8 counted from the next one, operand u32.
The kernel gives the program a `seccomp_data`: number u32, machine u32, address u64, six u64.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runtime_stub.confinement.syscalls import call, forbid_new_privileges, machine, number

_LOAD, _AND, _RETURN = 0x20, 0x54, 0x06
_IF_EQUAL, _IF_AT_LEAST = 0x15, 0x35
_NUMBER_AT, _MACHINE_AT, _ARGUMENTS_AT = 0, 4, 16
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000
_AUDIT_NAMES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000
_SET_MODE_FILTER, _GET_ACTION_AVAIL = 1, 2
_TSYNC = 1


@dataclass(frozen=True)
class Test:
    """Something about an argument that makes a call refused: its `wide` 64 bits, or its low 32,
    masked, are `equal` to a value, or are not."""

    argument: int
    value: int
    equal: bool
    mask: int = 0xFFFFFFFF
    wide: bool = False


@dataclass(frozen=True)
class Rule:
    """When to refuse a system call, and with which error. Without tests always."""

    tests: tuple[Test, ...] = ()
    error: int = errno.EPERM


REFUSED = Rule()


def any_bits(argument: int, bits: int) -> Test:
    """Refuse when any of `bits`, which is one bit or all that matter, is set."""
    return Test(argument, 0, equal=False, mask=bits)


def no_bits(argument: int, bits: int) -> Test:
    """Refuse when none of `bits` is set."""
    return Test(argument, 0, equal=True, mask=bits)


def given(argument: int) -> Test:
    """Refuse when a pointer is not NULL."""
    return Test(argument, 0, equal=False, wide=True)


def equals(argument: int, value: int) -> Test:
    """Refuse one value."""
    return Test(argument, value, equal=True)


def differs(argument: int, value: int, mask: int = 0xFFFFFFFF) -> Test:
    """Refuse all but one value."""
    return Test(argument, value, equal=False, mask=mask)


def program(rules: Mapping[str, Rule], on: str) -> bytes:
    """The filter for a machine (of syscalls.MACHINES)."""
    code = [
        _word(_LOAD, _MACHINE_AT),
        _word(_IF_EQUAL, _AUDIT_NAMES[on], 1, 0),
        _refuse(errno.EPERM),
        _word(_LOAD, _NUMBER_AT),
    ]
    if on == "x86_64":
        code += [_word(_IF_AT_LEAST, _X32_BIT, 0, 1), _refuse(errno.EPERM)]
    for name, rule in rules.items():
        which = number(name, on)
        if which is None:
            continue
        block = _block(rule)
        code += [_word(_IF_EQUAL, which, 0, len(block)), *block]
    code.append(_word(_RETURN, _ALLOW))
    return b"".join(code)


def install(filter_program: bytes) -> None:
    """Put the filter on this process, on all its threads. Raises OSError."""
    instructions = ctypes.create_string_buffer(filter_program, len(filter_program))
    header = struct.pack("HxxxxxxP", len(filter_program) // 8, ctypes.addressof(instructions))
    forbid_new_privileges()
    if call("seccomp", _SET_MODE_FILTER, _TSYNC, header):
        raise OSError(errno.ESRCH, "another thread has a filter of its own")


def available() -> tuple[bool, str]:
    """Whether filters can be had, else why not."""
    if not machine():
        return False, "this system has no seccomp filters that satchel knows"
    try:
        call("seccomp", _GET_ACTION_AVAIL, 0, struct.pack("=I", _ERROR))
    except OSError as error:
        if error.errno == errno.ENOSYS:
            return False, "this kernel was built without seccomp filters"
        return False, f"the kernel or the container refuses it ({error.strerror})"
    return True, ""


def _block(rule: Rule) -> Sequence[bytes]:
    """What happens to a call of the rule's number: every way through it ends it."""
    if not rule.tests:
        return [_refuse(rule.error)]
    code: list[bytes] = []
    for test in rule.tests:
        code += _test(test, rule.error)
    return [*code, _word(_RETURN, _ALLOW)]


def _test(test: Test, error: int) -> list[bytes]:
    """Refuses when the test holds, and goes on behind itself when it does not."""
    low = _ARGUMENTS_AT + 8 * test.argument
    if test.wide:  # differs from zero, in either half
        return [
            _word(_LOAD, low),
            _word(_IF_EQUAL, 0, 0, 2),
            _word(_LOAD, low + 4),
            _word(_IF_EQUAL, 0, 1, 0),
            _refuse(error),
        ]
    hold, pass_by = (0, 1) if test.equal else (1, 0)
    return [
        _word(_LOAD, low),
        _word(_AND, test.mask),
        _word(_IF_EQUAL, test.value, hold, pass_by),
        _refuse(error),
    ]


def _refuse(error: int) -> bytes:
    return _word(_RETURN, _ERROR | error)


def _word(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, operand)
