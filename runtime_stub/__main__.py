"""Where the frozen runtime begins. The launcher has found and checked it by now."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import NoReturn

from runtime_stub.later import put_off

# Named by modules that every start loads, and used by few starts.
put_off("ast", "tokenize", "shutil", "tempfile", "traceback", "subprocess", "ipaddress")

from runtime_stub import environment  # noqa: E402
from runtime_stub.errors import SatchelError  # noqa: E402


def start() -> int:
    """Take over from the launcher and run the command line; returns the exit code."""
    try:
        launch = environment.take(os.environ)
    except SatchelError as error:
        sys.stderr.write(f"satchel: {error}\n")
        return error.exit_code
    # The host's configuration would have OpenSSL load the host's modules.
    os.environ["OPENSSL_CONF"] = os.devnull
    from runtime_stub.streams import open_missing_streams

    open_missing_streams()
    from runtime_stub.children import take_pack_name
    from runtime_stub.cli import main
    from runtime_stub.console import INTERRUPTED

    take_pack_name(launch)
    try:
        if launch.interrupt_held:
            # A Ctrl-C that came while the interpreter was setting itself up arrives now.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        return main(launch)
    except KeyboardInterrupt:
        return INTERRUPTED


def leave(code: int) -> NoReturn:
    """End the process without taking the interpreter apart.

    A thread may be in the middle of native code that calls back into Python: an interpreter
    that is being taken apart would crash under it.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(start())
