"""Rules over files, as the kernel enforces them: each case in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from runtime_stub.confinement import landlock

ABI, REASON = landlock.version()
pytestmark = pytest.mark.skipif(not ABI, reason=REASON)
SETUP = """
import os, sys
from pathlib import Path
from runtime_stub.confinement.landlock import *
here = Path(sys.argv[1])
abi, _ = version()

def fails(action, *arguments):
    try:
        action(*arguments)
    except PermissionError:
        return True
    return False
"""


def run(folder: Path, code: str) -> str:
    """What a new process prints that runs `code` with a folder `here`."""
    result = subprocess.run(
        [sys.executable, "-c", SETUP + textwrap.dedent(code), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("open", "shut"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    return tmp_path


def test_what_is_granted_and_nothing_else(folder: Path) -> None:
    printed = run(
        folder,
        """
        restrict([Grant(here / "open", READ)], abi)
        print((here / "open" / "file").read_text(),
              fails((here / "shut" / "file").read_text),
              fails((here / "open" / "file").write_text, "x"),
              fails(os.listdir, here))
        """,
    )
    assert printed == "open True True True"


def test_writing_includes_making_moving_and_removing(folder: Path) -> None:
    printed = run(
        folder,
        """
        restrict([Grant(here / "open", WRITE)], abi)
        inside = here / "open" / "new"
        inside.mkdir()
        (inside / "a").write_text("text")
        (inside / "a").rename(here / "open" / "b")
        inside.rmdir()
        (here / "open" / "file").unlink()
        print(fails((here / "shut" / "new").write_text, "x"),
              fails((here / "open" / "b").rename, here / "shut" / "b"),
              fails((here / "shut" / "file").unlink))
        """,
    )
    assert printed == "True True True"
    assert (folder / "open" / "b").read_text() == "text"


def test_an_open_file_stays_granted_wherever_it_goes(folder: Path) -> None:
    printed = run(
        folder,
        """
        descriptor = os.open(here / "open" / "file", os.O_RDONLY)
        restrict([Grant(descriptor, RUN), Grant(here / "shut", WRITE), Grant(here, READ_DIR)], abi)
        again = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY)
        print(os.read(again, 10).decode(), (here / "open" / "file").read_text())
        """,
    )
    assert printed == "open open"


def test_a_file_in_memory_and_a_path_that_is_not_there_do_no_harm(folder: Path) -> None:
    printed = run(
        folder,
        """
        memory = os.memfd_create("pack")
        restrict([Grant(memory, READ), Grant(here / "nothing", READ)], abi)
        os.open(f"/proc/self/fd/{memory}", os.O_RDONLY)
        print("fine")
        """,
    )
    assert printed == "fine"


@pytest.mark.skipif(ABI < 6, reason="needs Linux 6.12")
def test_nobody_outside_is_signalled(folder: Path) -> None:
    printed = run(
        folder,
        """
        restrict([], abi)
        child = os.fork() or os._exit(0)
        os.kill(child, 0)
        print(fails(os.kill, os.getppid(), 0))
        """,
    )
    assert printed == "True"


@pytest.mark.parametrize("version", range(1, ABI + 1))
def test_older_kernels_get_what_they_know(folder: Path, version: int) -> None:
    printed = run(
        folder,
        f"""
        restrict([Grant(here / "open", WRITE)], {version})
        print(fails((here / "shut" / "file").read_text), (here / "open" / "file").read_text())
        """,
    )
    assert printed == "True open"


def test_not_for_another_user(folder: Path) -> None:
    """Without any right of root's: it asks for no privilege."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    folder.chmod(0o755)
    for parent in folder.parents:
        if parent.stat().st_uid == os.geteuid() and len(parent.parts) > 2:
            parent.chmod(parent.stat().st_mode | 0o055)
    printed = run(
        folder,
        """
        os.setgid(65534)
        os.setuid(65534)
        restrict([Grant(here / "open", READ)], abi)
        print((here / "open" / "file").read_text(), fails((here / "shut" / "file").read_text))
        """,
    )
    assert printed == "open True"
