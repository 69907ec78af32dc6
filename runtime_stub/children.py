"""Starts every child process, and names our own: the only module that does either.

Host programs must not see the runtime's libraries, so they get the environment that the
launcher found. The pack itself is started again only through its launcher, from the open
file, so that a pack that was replaced or moved meanwhile still starts its own version.
"""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from runtime_stub.environment import Launch
from runtime_stub.streams import open_null

_BROWSERS = ("xdg-open", "open", "sensible-browser", "firefox", "chromium")
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15


def start_host_program(
    launch: Launch, command: Sequence[str], *, quiet: bool = True
) -> subprocess.Popen[bytes]:
    """Start a program of the host, in its own environment. Raises OSError."""
    output = subprocess.DEVNULL if quiet else None
    return subprocess.Popen(
        list(command),
        env=launch.host_environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )


def start_self(
    launch: Launch,
    arguments: Sequence[str],
    *,
    socket: int | None = None,
    output: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start this pack again, through its launcher; standard output as subprocess's `output`.
    Raises OSError.

    With a `socket`, which it inherits, it is a worker that talks over that alone: a Ctrl-C in
    the terminal does not reach it, and it reads and writes nothing else but standard error.
    """
    worker = socket is not None
    nothing = open_null() if worker else None
    try:
        return subprocess.Popen(
            [launch.argv0, *arguments],
            executable=f"/proc/self/fd/{launch.descriptor}",
            env=launch.host_environment,
            stdin=nothing,
            stdout=nothing if worker else output,
            start_new_session=worker,
            pass_fds=(launch.descriptor,) if socket is None else (launch.descriptor, socket),
        )
    finally:
        if nothing is not None:
            os.close(nothing)


def end_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends, where it can."""
    if sys.platform.startswith("linux"):
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def open_browser(launch: Launch, address: str) -> bool:
    """Show `address` in the person's browser; False when there is none to be found."""
    path = launch.host_environment.get("PATH", os.defpath)
    for name in _BROWSERS:
        program = shutil.which(name, path=path)
        if program is None:
            continue
        try:
            start_host_program(launch, [program, address])
        except OSError:
            continue
        return True
    return False


def named_editor(launch: Launch) -> str:
    """The editor that the person has named, as a shell would take it; empty for none."""
    environment = launch.host_environment
    return (environment.get("VISUAL") or environment.get("EDITOR") or "").strip()


def run_editor(launch: Launch, text: str) -> str | None:
    """`text` as the person leaves it in the editor they have named, None when the editor failed.

    It has our terminal. Raises OSError (FileNotFoundError when there is no such editor).
    """
    environment = launch.host_environment
    try:
        command = shlex.split(named_editor(launch))
    except ValueError as error:
        raise OSError(errno.EINVAL, f"VISUAL or EDITOR can't be understood ({error})") from None
    if not command:
        raise FileNotFoundError(errno.ENOENT, "no editor is named; set EDITOR to one")
    if shutil.which(command[0], path=environment.get("PATH", os.defpath)) is None:
        raise FileNotFoundError(errno.ENOENT, f"there is no program {command[0]!r}")
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder, "message.md")
        draft.write_text(text, encoding="utf-8", errors="replace")
        done = subprocess.run([*command, str(draft)], env=environment, check=False)
        edited = draft.read_text(encoding="utf-8", errors="replace")
        return edited if done.returncode == 0 else None


def take_pack_name(launch: Launch) -> None:
    """Show this process under the pack's name instead of the loader's, where we can."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    name = Path(launch.argv0).name or "satchel"
    ctypes.CDLL(None).prctl(_PR_SET_NAME, os.fsencode(name)[:15], 0, 0, 0)
    try:
        fields = Path("/proc/self/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
        # Fields 48 and 49 of proc(5), counted from the one after the name, which is third.
        start, end = int(fields[45]), int(fields[46])
    except (OSError, IndexError, ValueError):
        return
    line = b"\0".join(os.fsencode(word) for word in (launch.argv0, *sys.argv[1:])) + b"\0"
    # Our own command line is always shorter than the one that went through the loader.
    if 0 < len(line) <= end - start:
        ctypes.memmove(start, line.ljust(end - start, b"\0"), end - start)
