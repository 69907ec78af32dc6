"""The filter, as the kernel runs it: each case in a process that installs it."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime_stub.confinement import seccomp, syscalls
from runtime_stub.confinement.policy import Policy, Surroundings, closed, serving

needs_filters = pytest.mark.skipif(not seccomp.available()[0], reason=seccomp.available()[1])
SETUP = """
import errno, os, socket, threading
from runtime_stub.confinement.seccomp import *
from runtime_stub.confinement.syscalls import call, machine

def error(action):
    try:
        action()
    except OSError as problem:
        return errno.errorcode[problem.errno]
    return None

def put(**rules):
    install(program(rules, machine()))
"""


def run(code: str) -> str:
    """What a new process prints that runs `code`."""
    result = subprocess.run(
        [sys.executable, "-c", SETUP + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@needs_filters
def test_a_refused_call() -> None:
    printed = run("""
        before = error(lambda: call("sethostname", None, -1))
        put(sethostname=REFUSED, getpid=Rule(error=errno.EXDEV))
        print(before, error(lambda: call("sethostname", None, -1)),
              error(lambda: call("getpid")), error(socket.socket))
    """)
    assert printed == "EINVAL EPERM EXDEV None"


@needs_filters
@pytest.mark.parametrize(
    ("test", "calls", "expected"),
    [
        ("any_bits(3, 0b110)", "[0, 1, 2, 4, 6, 9]", [0, 0, 1, 1, 1, 0]),
        ("no_bits(3, 0b100)", "[0, 4, 5, 3]", [1, 0, 0, 1]),
        ("equals(3, 7)", "[7, 6, 7 + 2**32]", [1, 0, 1]),
        ("differs(3, 7)", "[7, 6]", [0, 1]),
        ("differs(3, 5, 0xF)", "[5, 0x105, 6]", [0, 0, 1]),
        ("given(3)", "[0, 1, 2**32, 2**63 - 1]", [0, 1, 1, 1]),
    ],
)
def test_tests_of_arguments(test: str, calls: str, expected: list[int]) -> None:
    """On getpid, which takes no arguments and looks at none."""
    printed = run(f"""
        put(getpid=Rule(({test},)))
        print([int(bool(error(lambda: call("getpid", 0, 0, 0, value)))) for value in {calls}])
    """)
    assert printed == str(expected)


@needs_filters
def test_any_of_several_tests_refuses() -> None:
    printed = run("""
        put(getpid=Rule((equals(0, 1), given(1))))
        cases = [(0, 0), (1, 0), (0, 5), (1, 5)]
        print([error(lambda: call("getpid", *case)) for case in cases])
    """)
    assert printed == "[None, 'EPERM', 'EPERM', 'EPERM']"


@needs_filters
def test_threads_that_exist_are_bound_too() -> None:
    printed = run("""
        go, answer = threading.Event(), []
        def wait():
            go.wait()
            answer.append(error(lambda: call("sethostname", None, -1)))
        thread = threading.Thread(target=wait)
        thread.start()
        put(sethostname=REFUSED)
        go.set()
        thread.join()
        print(answer)
    """)
    assert printed == "['EPERM']"


@needs_filters
@pytest.mark.skipif(syscalls.machine() != "x86_64", reason="x86-64 has foreign doors")
def test_foreign_doors_are_shut() -> None:
    printed = run("""
        from runtime_stub.confinement import probe
        put()
        print(error(lambda: call(39 | 0x40000000)), error(probe._call_i386))
    """)
    assert printed == "EPERM EPERM"


@pytest.mark.parametrize("machine", syscalls.MACHINES)
@pytest.mark.parametrize("make", [closed, serving])
def test_programs_are_sound(machine: str, make: Callable[[Surroundings], Policy]) -> None:
    """On every machine: known instructions, and no jump that leaves the program."""
    policy = make(Surroundings((), Path("/"), ()))
    code = seccomp.program(policy.rules, machine)
    instructions = list(struct.iter_unpack("=HBBI", code))
    assert 50 < len(instructions) < 4096
    for at, (kind, if_true, if_false, operand) in enumerate(instructions):
        assert kind in (0x20, 0x54, 0x06, 0x15, 0x35)
        if kind in (0x15, 0x35):
            assert at + 1 + max(if_true, if_false) < len(instructions)
        if kind == 0x20:
            assert operand % 4 == 0
            assert operand < 64
    assert instructions[-1] == (0x06, 0, 0, 0x7FFF0000)


def test_numbers_are_the_headers_ones() -> None:
    header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    if not header.is_file():
        pytest.skip("the kernel's headers are not installed")
    found = dict(re.findall(r"#define __NR_(\w+)\s+(\d+)", header.read_text()))
    numbers = {name: str(number) for name, (number, _) in syscalls.NUMBERS.items() if name in found}
    assert numbers == {name: found[name] for name in numbers}
    assert len(numbers) > len(syscalls.NUMBERS) - 4
