"""What a start imports. Each module costs time at every start, so a new one is a decision."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from running_pack import sample_pack

PACKAGES = {"click", "platformdirs", "runtime_stub", "tomli", "typing_extensions"}
ASK = PACKAGES | {"jinja2", "llama_cpp", "markupsafe"}
SERVE = PACKAGES | {"anyio", "exceptiongroup", "h11", "msgspec", "sniffio", "starlette", "uvicorn"}
NOT_FOR_ASK = {
    "asyncio",
    "http",
    "email",
    "ssl",
    "socketserver",
    "multiprocessing",
    "xml",
    "unittest",
}
NOT_FOR_SERVE = {"xml", "unittest", "sqlite3", "tkinter", "pydoc"}
_PROGRAM = """
import os, runpy, sys
before, leave, own = set(sys.modules), os._exit, os.getpid()
def report(code):
    if os.getpid() == own:  # and not its engine
        print("MODULES", *sorted(set(sys.modules) - before), file=sys.stderr, flush=True)
    leave(code)
os._exit = report
try:
    runpy.run_module("runtime_stub", run_name="__main__", alter_sys=True)
finally:
    report(1)
"""


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    """The runtime out of the checkout, started as the launcher of the sample pack would."""
    pack = sample_pack().resolve()
    folder.mkdir(mode=0o700)
    descriptors = [os.open(pack, os.O_RDONLY), os.open(folder, os.O_RDONLY)]
    environment = {
        **os.environ,
        "SATCHEL_PACK_PATH": str(pack),
        "SATCHEL_PACK_FD": str(descriptors[0]),
        "SATCHEL_RUNTIME": str(folder),
        "SATCHEL_RUNTIME_FD": str(descriptors[1]),
        "SATCHEL_CACHE_ROOT": str(folder),
        "SATCHEL_ARGV0": str(pack),
    }
    try:
        return subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, *words, "--no-sandbox"],
            env=environment,
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def imported(report: str) -> set[str]:
    """Names of the modules that were there in the end."""
    line = next(line for line in report.splitlines() if line.startswith("MODULES "))
    return set(line.split()[1:])


def packages(modules: set[str]) -> set[str]:
    """The packages of modules that are not the standard library's."""
    found = {name.partition(".")[0] for name in modules}
    return {name for name in found - sys.stdlib_module_names if not name.startswith("_")}


@pytest.mark.pack
def test_ask(tmp_path: Path) -> None:
    words = ("ask", "Hello", "--max-tokens", "2", "--temperature", "0")
    process = start(tmp_path / "cache", *words)
    output, report = process.communicate(timeout=120)
    assert process.returncode == 0, report[-2000:]
    assert output.strip()
    modules = imported(report)
    assert packages(modules) <= ASK
    assert not {name.partition(".")[0] for name in modules} & NOT_FOR_ASK
    server = {name for name in modules if name.startswith("runtime_stub.server.")}
    assert server <= {"runtime_stub.server.cli"}
    assert not {"runtime_stub.chat.loop", "runtime_stub.engine.remote"} & modules


@pytest.mark.pack
def test_serve(tmp_path: Path) -> None:
    process = start(tmp_path / "cache", "serve", "--port", "0")
    assert process.stderr is not None
    for line in process.stderr:
        if "is listening on" in line:
            break
    process.send_signal(signal.SIGTERM)
    modules = imported(process.communicate(timeout=60)[1])
    assert packages(modules) <= SERVE
    assert not {name.partition(".")[0] for name in modules} & NOT_FOR_SERVE
    # The engine is another process: nothing native is loaded where HTTP is spoken.
    assert "llama_cpp.llama_cpp" not in modules
    assert not {name for name in modules if name.startswith("runtime_stub.chat.")} - {
        "runtime_stub.chat.cli"
    }
