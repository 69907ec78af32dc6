"""A real pack keeps itself in: what the kernel refuses it, and that all the rest still works."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from running_pack import ASK, QUESTION, Place, address_of, place, wait_for

from runtime_stub.confinement import landlock, seccomp

pytestmark = pytest.mark.pack
ABI, NO_LANDLOCK = landlock.version()
FILTERS, NO_FILTERS = seccomp.available()
needs_both = pytest.mark.skipif(
    not (ABI and FILTERS), reason=f"{NO_LANDLOCK}{NO_FILTERS}: the kernel can't confine"
)
BY_LANDLOCK = {
    "read /etc/passwd",
    "list the root folder",
    "list the home folder",
    "list the pack's folder",
    "write to the home folder",
    "write to the temporary folder",
    "write to the pack's folder",
    "change the pack",
}
COMMANDS = ("ask", "chat", "serve", "engine")


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A pack that has been started before."""
    found = place(tmp_path_factory.mktemp("ready"))
    found.run("--version")
    return found


@pytest.fixture(scope="module")
def reports(ready: Place) -> dict[str, dict[str, Any]]:
    """What `info --probe` found, by command."""
    found = json.loads(ready.run("info", "--probe", "--json").stdout)
    return {report["command"]: report for report in found}


@pytest.fixture
def server(ready: Place) -> Iterator[subprocess.Popen[str]]:
    process = ready.start("serve", "--port", "0", "--temperature", "0")
    yield process
    process.kill()
    process.communicate()


def wait_ready(address: str) -> None:
    wait_for(lambda: httpx.get(f"{address}/health").status_code == 200, "loading the model")


def ask_server(client: httpx.Client | Any, address: str, **fields: object) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": QUESTION}], **fields}
    reply: httpx.Response = client.post(f"{address}/v1/chat/completions", json=body, timeout=60)
    return reply


def statuses(process: int) -> list[dict[str, str]]:
    """/proc/PID/status of every thread."""
    return [
        dict(line.split(":\t", 1) for line in path.read_text().splitlines() if ":\t" in line)
        for path in Path("/proc", str(process), "task").glob("*/status")
    ]


def engine_of(server: subprocess.Popen[str]) -> int:
    threads = Path("/proc", str(server.pid), "task").iterdir()
    children = [word for thread in threads for word in (thread / "children").read_text().split()]
    assert len(children) == 1
    return int(children[0])


# What is refused


@pytest.mark.parametrize("command", COMMANDS)
def test_everything_is_refused(reports: dict[str, dict[str, Any]], command: str) -> None:
    """Tried inside each command's own process, in a thread that was started afterwards."""
    answers = {each["name"]: each["answer"] for each in reports[command]["attempts"]}
    assert len(answers) > 30
    expected = set(answers)
    if not FILTERS:
        expected = set()
    if not ABI:
        expected -= BY_LANDLOCK
    if ABI < 6:
        expected -= {"signal its parent"}
    assert {name for name in expected if answers[name] not in ("refused", "absent")} == set()
    assert answers["TCP socket"] == ("refused" if FILTERS else "allowed")


def test_the_same_is_allowed_without(ready: Place) -> None:
    """So the attempts are real: what refuses them is the sandbox."""
    for command in (("ask", "hello"), ("chat",), ("engine",)):
        report = json.loads(ready.run(command[0], "--probe", "--no-sandbox", *command[1:]).stdout)
        answers = {each["name"]: each["answer"] for each in report["attempts"]}
        for name in ("TCP socket", "UDP socket", "Unix socket", "start a program", *BY_LANDLOCK):
            assert answers[name] == "allowed", (command, name)
        assert answers["connect"] == "EINVAL"
        assert answers["signal its parent"] == "allowed"
        assert all(part["missing"] for part in report["parts"])


@needs_both
def test_parts_in_force(reports: dict[str, dict[str, Any]]) -> None:
    for report in reports.values():
        here = {part["name"] for part in report["parts"] if not part["missing"]}
        assert {name for since, name, _ in landlock.PARTS if since <= ABI} <= here
        assert {"system calls", "root's powers"} <= here


@needs_both
def test_every_thread_has_the_filter(server: subprocess.Popen[str]) -> None:
    """Also after the engine has died and another has come."""
    address = address_of(server)
    for _ in range(2):
        wait_ready(address)
        assert "Paris" in ask_server(httpx, address).text
        engine = engine_of(server)
        for process, at_least in ((server.pid, 2), (engine, 3)):
            found = statuses(process)
            assert len(found) >= at_least
            for status in found:
                assert status["Seccomp"] == "2"
                assert status["NoNewPrivs"] == "1"
                assert int(status["CapEff"], 16) & ~0b1110 == 0
        filters = {status["Seccomp_filters"] for status in statuses(engine)}
        assert filters == {"2"}
        os.kill(engine, signal.SIGKILL)
        # It is waited for only once its end was seen: from then on the server isn't ready.
        there = Path(f"/proc/{engine}")
        wait_for(lambda there=there: not there.exists(), "its end")  # type: ignore[misc]


def test_info_says_what_is_in_force(ready: Place) -> None:
    document = json.loads(ready.run("info", "--json").stdout)
    missing = {part["name"]: part["missing"] for part in document["sandbox"]}
    assert bool(missing["files"]) == (not ABI)
    assert bool(missing["system calls"]) == (not FILTERS)
    off = json.loads(ready.run("info", "--json", SATCHEL_NO_SANDBOX="1").stdout)
    assert all(part["missing"] == "it is turned off" for part in off["sandbox"])
    text = ready.run("info", SATCHEL_NO_SANDBOX="1").stdout
    assert "sandbox    none" in text
    assert "it is turned off" in text


# A whole conversation, watched from outside

NETWORK = re.compile(r"^\d+ +(?:<\.\.\. )?(\w+)(\(.*)", re.MULTILINE)
NAMES = ("resolv.conf", "/etc/hosts", "nsswitch", "nscd", "host.conf", "gai.conf")


def traced(ready: Place, log: Path, *arguments: str) -> list[str]:
    """A command line that runs the pack and writes its system calls down."""
    tracer = shutil.which("strace")
    if tracer is None:
        pytest.skip("strace is not installed")
    calls = "trace=network,openat,open,io_uring_setup"
    return [tracer, "-f", "-s", "64", "-e", calls, "-o", str(log), str(ready.pack), *arguments]


def seen(log: Path) -> list[tuple[str, str]]:
    """Every call, with its arguments and result."""
    found = NETWORK.findall(log.read_text(errors="replace"))
    assert len(found) > 20
    return found


def reaching_out(calls: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those that have to do with anybody elsewhere."""
    own = (
        "openat", "open", "socketpair", "getsockname", "getpeername", "getsockopt", "setsockopt",
        "listen", "accept4", "accept", "recvfrom", "recvmsg", "shutdown", "sendmsg",
    )  # fmt: skip
    return [
        (name, rest)
        for name, rest in calls
        if name not in own and not (name == "sendto" and ", NULL, 0" in rest)
    ]


@pytest.mark.parametrize("more", [(), ("--no-sandbox",)])
def test_a_whole_chat_reaches_nobody(ready: Place, tmp_path: Path, more: tuple[str, ...]) -> None:
    """It does not even try: without the sandbox, too."""
    log = tmp_path / "trace"
    result = subprocess.run(
        traced(ready, log, "chat", "--temperature", "0", *more),
        input=f"{QUESTION}\nAnd of Italy?\n",
        capture_output=True,
        text=True,
        env=ready.environment(),
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "Paris" in result.stdout
    calls = seen(log)
    assert reaching_out(calls) == []
    assert not [rest for name, rest in calls if name == "openat" and any(n in rest for n in NAMES)]


@pytest.mark.parametrize("more", [(), ("--no-sandbox",)])
def test_a_whole_served_conversation_reaches_nobody(
    ready: Place, tmp_path: Path, more: tuple[str, ...]
) -> None:
    log = tmp_path / "trace"
    with subprocess.Popen(
        traced(ready, log, "serve", "--port", "0", "--temperature", "0", *more),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ready.environment(),
    ) as tracer:
        address = address_of(tracer)
        wait_ready(address)
        with httpx.Client() as client:
            assert "Paris" in ask_server(client, address).text
            assert "[DONE]" in ask_server(client, address, stream=True).text
            assert client.get(f"{address}/metrics").status_code == 200
            body = {"input": ["a text", "another"]}
            assert client.post(f"{address}/v1/embeddings", json=body).status_code == 200
        children = Path(f"/proc/{tracer.pid}/task/{tracer.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGTERM)
        assert tracer.wait(60) == 0
    calls = seen(log)
    reaching = [(name, rest) for name, rest in reaching_out(calls) if "resumed" not in rest]
    # The address it listens on, and nothing else.
    assert [name for name, _ in reaching] == ["socket", "bind"]
    assert "127.0.0.1" in reaching[1][1]
    opened = [rest for name, rest in calls if name == "openat"]
    assert not [rest for rest in opened if any(name in rest for name in NAMES)]


# All the rest


def test_streaming_and_a_new_engine(server: subprocess.Popen[str]) -> None:
    address = address_of(server)
    wait_ready(address)
    assert "[DONE]" in ask_server(httpx, address, stream=True).text
    os.kill(engine_of(server), signal.SIGABRT)
    # What comes while it dies is told so.
    wait_for(lambda: "Paris" in ask_server(httpx, address).text, "the next engine", 60)


def test_a_prompt_from_a_file(ready: Place, tmp_path: Path) -> None:
    prompt = tmp_path / "prompt.txt"
    prompt.write_text(QUESTION)
    with prompt.open() as stream:
        result = subprocess.run(
            [ready.pack, "ask", "-", "--temperature", "0"],
            stdin=stream,
            capture_output=True,
            text=True,
            env=ready.environment(),
            timeout=60,
            check=False,
        )
    assert "Paris" in result.stdout, result.stderr


def test_a_unix_socket_comes_and_goes(ready: Place, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    beside = tmp_path / "file"
    beside.write_text("precious")
    with ready.start("serve", "--unix-socket", str(path), "--temperature", "0") as server:
        wait_for(path.exists, "the socket")
        transport = httpx.HTTPTransport(uds=str(path))
        with httpx.Client(transport=transport) as client:
            wait_ready_by(client)
            assert "Paris" in ask_server(client, "http://pack").text
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
    assert not path.exists()
    assert beside.read_text() == "precious"


def wait_ready_by(client: httpx.Client) -> None:
    wait_for(lambda: client.get("http://pack/health").status_code == 200, "loading the model")


def test_the_browser_is_opened(ready: Place, tmp_path: Path) -> None:
    browser = tmp_path / "xdg-open"
    browser.write_text(f'#!/bin/sh\ncat /etc/passwd > /dev/null && echo "$1" > {tmp_path}/shown\n')
    browser.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    with ready.start("serve", "--port", "0", "--open", PATH=path) as server:
        address = address_of(server)
        shown = tmp_path / "shown"
        # It is outside of the sandbox: it reads what the pack may not.
        wait_for(lambda: shown.exists() and shown.read_text(), "the browser")
        assert shown.read_text().strip() == address
        server.send_signal(signal.SIGTERM)
        server.wait(30)


def test_a_runtime_that_is_gone_comes_back(ready: Place, tmp_path: Path) -> None:
    """The launcher, confined with the server, extracts it anew for the next engine."""
    own = place(tmp_path, source=ready.pack)
    with own.start("serve", "--port", "0", "--temperature", "0") as server:
        address = address_of(server)
        wait_ready(address)
        shutil.rmtree(own.cache / "runtimes")
        os.kill(engine_of(server), signal.SIGKILL)
        wait_for(lambda: ask_server(httpx, address).status_code == 200, "the next engine", 60)
        server.kill()


@needs_both
def test_inside_other_sandboxes(ready: Place) -> None:
    """A filter and a Landlock domain are there already, as in a container."""
    code = (
        "import os, sys\n"
        "from runtime_stub.confinement.landlock import *\n"
        "from runtime_stub.confinement.seccomp import *\n"
        "from runtime_stub.confinement.syscalls import machine\n"
        "from pathlib import Path\n"
        "restrict([Grant(Path('/'), RUN | WRITE | TERMINAL)], version()[0])\n"
        "install(program({'io_uring_setup': REFUSED, 'clone3': Rule(error=38)}, machine()))\n"
        "os.execv(sys.argv[1], sys.argv[1:])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, ready.pack, *ASK],
        capture_output=True,
        text=True,
        env={**ready.environment(), "PYTHONPATH": str(Path(__file__).parent.parent)},
        timeout=60,
        check=False,
    )
    assert "Paris" in result.stdout, result.stderr


@needs_both
def test_where_the_kernel_refuses_to_confine(ready: Place) -> None:
    """It runs all the same, and says what is missing."""
    code = (
        "import os, sys\n"
        "from runtime_stub.confinement.seccomp import *\n"
        "from runtime_stub.confinement.syscalls import machine\n"
        "rules = {'landlock_create_ruleset': Rule(error=int(sys.argv[1])), 'seccomp': REFUSED}\n"
        "install(program(rules, machine()))\n"
        "os.execv(sys.argv[2], sys.argv[2:])\n"
    )

    def run(number: int, *arguments: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", code, str(number), ready.pack, *arguments],
            capture_output=True,
            text=True,
            env={**ready.environment(), "PYTHONPATH": str(Path(__file__).parent.parent)},
            timeout=60,
            check=True,
        ).stdout

    assert "Paris" in run(1, *ASK)
    for number, reason in ((38, "built without Landlock"), (95, "switched off"), (1, "refuses")):
        missing = {
            part["name"]: part["missing"]
            for part in json.loads(run(number, "info", "--json"))["sandbox"]
        }
        assert reason in missing["files"]
        assert "refuses" in missing["system calls"]
