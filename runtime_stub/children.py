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
import time
from collections.abc import Callable, Iterable, Sequence
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


class Forked:
    """A process that was forked from this one."""

    def __init__(self, number: int) -> None:
        self.pid = number
        self._code: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; the exit code, negative for a signal. Raises
        subprocess.TimeoutExpired."""
        until = None if timeout is None else time.monotonic() + timeout
        pause = 0.0005
        while self._code is None:
            ended, status = os.waitpid(self.pid, 0 if until is None else os.WNOHANG)
            if ended:
                self._code = os.waitstatus_to_exitcode(status)
            elif until is not None and timeout is not None:
                if time.monotonic() >= until:
                    raise subprocess.TimeoutExpired("", timeout)
                time.sleep(min(pause, max(0.0, until - time.monotonic())))
                pause = min(2 * pause, 0.05)
        return self._code

    def terminate(self) -> None:
        """Tell it to end."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """Let the system end it."""
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if self._code is None:  # until it was waited for, its number is nobody else's
            os.kill(self.pid, number)


def fork_worker(
    launch: Launch, words: Sequence[str], kept: Iterable[int], work: Callable[[], int]
) -> Forked:
    """Fork a worker that does `work` and ends with the exit code that it returns. Before there is
    any other thread. Raises OSError.

    As with `start_self`, it reads and writes nothing but the descriptors `kept` and standard error,
    and a Ctrl-C does not reach it. It ends with this thread, and is listed with `words`.
    """
    parent = os.getpid()
    number = os.fork()
    if number:
        return Forked(number)
    code = 1
    try:
        end_with_parent()
        if os.getppid() == parent:
            os.setsid()
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            nothing = open_null()
            for stream in (0, 1):
                os.dup2(nothing, stream)
            close_all_but(kept)
            sys.argv[1:] = words
            take_pack_name(launch)
            code = work()
    except BaseException:  # noqa: BLE001  (nothing above this is this process's to go on with)
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def close_all_but(kept: Iterable[int]) -> None:
    """Leave the standard streams and the descriptors `kept`: a port or a pack that a forked process
    holds open would seem to be in use."""
    start = 3
    for descriptor in sorted({number for number in kept if number >= start}):
        os.closerange(start, descriptor)
        start = descriptor + 1
    os.closerange(start, os.sysconf("SC_OPEN_MAX"))


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
