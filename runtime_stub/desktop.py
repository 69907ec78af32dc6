"""Started by a double click: no terminal, or a window that is there for this program alone."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import sys
from collections.abc import Mapping

_PROBE_SECONDS = 1.0
_LARGEST_REPLY = 1 << 20


def has_desktop(environment: Mapping[str, str]) -> bool:
    """Whether a browser could be shown to somebody."""
    return sys.platform in ("win32", "darwin") or any(
        environment.get(name) for name in ("WAYLAND_DISPLAY", "DISPLAY")
    )


def has_terminal() -> bool:
    """Whether somebody types, or looks."""
    return sys.stdin.isatty() or sys.stdout.isatty()


def double_clicked(environment: Mapping[str, str]) -> bool:
    """Whether we seem to be started from a desktop: nobody reads or keeps what we write."""
    keeps = stat.S_ISREG(os.fstat(sys.stdout.fileno()).st_mode)
    return not has_terminal() and not keeps and has_desktop(environment)


def is_piped_to() -> bool:
    """Whether standard input brings text: a pipe, a file or a socket."""
    kind = os.fstat(sys.stdin.fileno()).st_mode
    return stat.S_ISFIFO(kind) or stat.S_ISREG(kind) or stat.S_ISSOCK(kind)


def window_closes(environment: Mapping[str, str]) -> bool:
    """Whether the terminal's window is there for this program, and goes with it."""
    if not has_desktop(environment) or not hasattr(os, "getsid"):
        return False
    # A shell would lead the session, and its window stay.
    return os.getsid(0) == os.getpid() and sys.stdin.isatty() and sys.stderr.isatty()


def wait_for_key() -> None:
    """Wait until a key is pressed."""
    sys.stderr.write("Press a key to close this window.")
    sys.stderr.flush()
    try:
        import termios
        import tty

        before = termios.tcgetattr(0)
        tty.setcbreak(0)
    except (ImportError, OSError):
        sys.stdin.readline()
        return
    try:
        with contextlib.suppress(OSError, KeyboardInterrupt):
            os.read(0, 1)
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def serves_already(address: str, name: str) -> bool | None:
    """Whether a pack of this name is serving there; None when nobody answers at all."""
    import urllib.request  # takes long, and hardly any start needs it

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{address}/web/face.json", timeout=_PROBE_SECONDS) as reply:
            return bool(json.loads(reply.read(_LARGEST_REPLY)).get("name") == name)
    except ConnectionRefusedError:
        return None
    except (OSError, ValueError, AttributeError) as error:
        refused = isinstance(getattr(error, "reason", None), ConnectionRefusedError)
        return None if refused else False
