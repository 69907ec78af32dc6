"""The real pack of the real model: what a person gets."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from running_pack import (
    ASK,
    IS_ROOT,
    QUESTION,
    Place,
    address_of,
    place,
    sample_pack,
    satchel,
    snapshot,
    wait_for,
)

from runtime_stub.bundle import find_footer
from runtime_stub.errors import PackChangedError

pytestmark = pytest.mark.pack


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A pack that has been started before. Tests must leave its cache as it is."""
    found = place(tmp_path_factory.mktemp("ready"))
    found.run("--version")
    return found


@pytest.fixture
def fresh(tmp_path: Path) -> Place:
    """A copied pack, never started here."""
    found = place(tmp_path)
    found.pack.unlink()
    shutil.copy2(sample_pack(), found.pack)
    return found


@pytest.fixture
def server(ready: Place) -> Iterator[subprocess.Popen[str]]:
    process = ready.start("serve", "--port", "0", "--temperature", "0")
    yield process
    process.kill()
    process.communicate()


def wait_ready(address: str) -> None:
    wait_for(lambda: httpx.get(f"{address}/health").status_code == 200, "loading the model")


def chat(address: str, text: str = QUESTION, **fields: object) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": text}], **fields}
    return httpx.post(f"{address}/v1/chat/completions", json=body, timeout=60)


# Answers


def test_it_answers(ready: Place) -> None:
    assert "Paris" in ready.run(*ASK).stdout


def test_answer_as_json(ready: Place) -> None:
    answer = json.loads(ready.run(*ASK, "--json").stdout)
    assert "Paris" in answer["answer"]
    assert answer["reason"] == "stop"
    assert answer["usage"]["prompt_tokens"] > answer["usage"]["completion_tokens"] > 0


def test_piped_text_is_answered(ready: Place) -> None:
    assert ready.run(given=QUESTION).stdout.strip()
    assert "Paris" in ready.run("ask", "--temperature", "0", given=QUESTION).stdout
    assert (
        "Paris"
        in ready.run(
            "ask", "What is the name of", "-", "--temperature", "0", given="the capital of France?"
        ).stdout
    )


def test_length_limit_is_said(ready: Place) -> None:
    result = ready.run(*ASK, "--max-tokens", "2")
    assert result.stdout.strip() == "The capital"
    assert "length" in result.stderr


def test_chat_remembers(ready: Place) -> None:
    result = ready.run("chat", "--temperature", "0", given=f"{QUESTION}\n\nThank you.\n")
    assert "Paris" in result.stdout
    assert len(result.stdout.strip().split("\n\n")) >= 2


def test_prompt_longer_than_the_context(ready: Place) -> None:
    result = ready.run("ask", "word " * 9000, check=False)
    assert result.returncode == 14
    assert "8,192" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("arguments", [["ask"], ["ask", ""], ["ask", "  "]])
def test_empty_prompt(ready: Place, arguments: list[str]) -> None:
    result = ready.run(*arguments, check=False)
    assert result.returncode == 3
    assert result.stderr.count("\n") == 1


def test_help_and_version_touch_neither_model_nor_engine(fresh: Place) -> None:
    """A model full of zeros and no readable engine library do not matter to them."""
    fresh.run("--version")
    descriptor = os.open(fresh.pack, os.O_RDWR)
    footer, _ = find_footer(descriptor)
    start = footer.runtime_offset + footer.runtime_length
    os.pwrite(descriptor, bytes(1 << 20), (start + 65535) // 65536 * 65536)
    os.close(descriptor)
    tracer = shutil.which("strace")
    for argument in ("--version", "--help"):
        result = fresh.run(argument)
        assert "assistant" in result.stdout
        if tracer is not None:
            trace = subprocess.run(
                [tracer, "-f", "-e", "trace=openat", fresh.pack, argument],
                capture_output=True,
                text=True,
                env=fresh.environment(),
                check=True,
            )
            assert "libllama" not in trace.stderr
            assert "libggml" not in trace.stderr


def test_unread_input_is_said(ready: Place) -> None:
    result = ready.run(*ASK, given="some text")
    assert "Paris" in result.stdout
    assert 'add "-"' in result.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(ready: Place, closed: str) -> None:
    result = subprocess.run(
        ["/bin/sh", "-c", f'exec "$0" ask "{QUESTION}" --temperature 0 {closed}', ready.pack],
        capture_output=True,
        text=True,
        env=ready.environment(),
        check=False,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert "failure" not in result.stderr
    if ">&-" not in closed.replace("2>&-", ""):
        assert "Paris" in result.stdout


def test_output_that_can_not_be_written(ready: Place) -> None:
    for command in ("ask", "info"):
        words = f'exec "$0" {command} {"hi" if command == "ask" else ""} >/dev/full'
        result = subprocess.run(
            ["/bin/sh", "-c", words, ready.pack],
            capture_output=True,
            text=True,
            env=ready.environment(),
            check=False,
            timeout=60,
        )
        assert result.returncode == 7, result.stderr
        assert result.stderr.count("\n") == 1


# Starting


def test_warm_start_writes_nothing(ready: Place) -> None:
    ready.run(*ASK)
    before = snapshot(ready.home)
    ready.run(*ASK)
    assert snapshot(ready.home) == before


def test_cache_holds_no_copy_of_the_model(ready: Place) -> None:
    ready.run(*ASK)
    total = sum(path.lstat().st_size for path in ready.cache.rglob("*") if path.is_file())
    assert total < 70e6
    assert not list(ready.cache.rglob("*.gguf"))


def test_process_is_replaced_and_named_after_the_pack(ready: Place) -> None:
    with subprocess.Popen(
        [ready.pack, "chat", "--temperature", "0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=ready.environment(),
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{QUESTION}\n")
        process.stdin.flush()
        assert process.stdout.read(1)
        proc = Path("/proc", str(process.pid))
        assert (proc / "comm").read_text().strip() == "assistant"
        words = (proc / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        assert words == [os.fsencode(ready.pack), b"chat", b"--temperature", b"0"]
        children = (proc / "task" / str(process.pid) / "children").read_text().split()
        assert children == []
        process.communicate(timeout=30)
    assert process.returncode == 0


def test_host_libraries_do_not_matter(ready: Place, tmp_path: Path) -> None:
    (tmp_path / "libc.so.6").write_bytes(b"not a library")
    result = ready.run(
        *ASK,
        LD_LIBRARY_PATH=str(tmp_path),
        LD_PRELOAD="/missing.so",
        PYTHONHOME="/x",
        PYTHONPATH="/x",
    )
    assert "Paris" in result.stdout
    assert "missing.so" not in result.stderr


def test_started_from_path_and_through_a_link(ready: Place, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(ready.pack)
    environment = ready.environment(PATH=f"{tmp_path}:{os.environ['PATH']}")
    result = subprocess.run(
        ["linked", "--version"],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
        cwd="/",
    )
    assert result.stdout.startswith("linked")


@pytest.mark.skipif(not IS_ROOT, reason="chroot and mount need root")
def test_it_runs_in_an_empty_root(tmp_path: Path) -> None:
    """Nothing but the pack, /proc and /tmp: no C library, no shell, no /etc, no /dev/null."""
    root = tmp_path / "root"
    for name in ("proc", "tmp"):
        (root / name).mkdir(parents=True)
    shutil.copy2(sample_pack(), root / "pack")

    def start(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["/pack", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={},
            preexec_fn=lambda: os.chroot(root),  # noqa: PLW1509
            cwd="/",
        )

    subprocess.run(["mount", "-t", "proc", "proc", str(root / "proc")], check=True)
    try:
        with start(*ASK) as asked:
            output, errors = asked.communicate(timeout=60)
        assert asked.returncode == 0, errors
        assert "Paris" in output
        with start("serve", "--port", "0", "--temperature", "0") as server:
            try:
                address = address_of(server)
                wait_ready(address)
                assert "Paris" in chat(address).text
            finally:
                server.terminate()
                server.communicate(timeout=60)
    finally:
        subprocess.run(["umount", str(root / "proc")], check=True)


def test_simultaneous_first_starts(fresh: Place) -> None:
    processes = [fresh.start("--version") for _ in range(12)]
    outcomes = [(process.communicate(timeout=60), process.returncode) for process in processes]
    assert all(code == 0 for _, code in outcomes), outcomes
    assert len([path for path in (fresh.cache / "runtimes").iterdir() if path.is_dir()]) == 1
    assert not list((fresh.cache / "runtimes").glob(".work*"))


def test_ctrl_c(ready: Place) -> None:
    process = ready.start("ask", "Tell me a very long story.", "--max-tokens", "4000")
    assert process.stdout is not None
    assert process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in errors


def test_ctrl_c_while_loading(ready: Place) -> None:
    for pause in (0.02, 0.06, 0.1, 0.15, 0.25):
        process = ready.start(*ASK)
        time.sleep(pause)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        assert process.returncode in (130, -signal.SIGINT)
        assert "Traceback" not in errors


# The server


def test_server(server: subprocess.Popen[str]) -> None:
    address = address_of(server)
    wait_ready(address)
    assert httpx.get(f"{address}/v1/models").json()["data"][0]["id"] == "SmolLM2"
    reply = chat(address).json()
    assert "Paris" in reply["choices"][0]["message"]["content"]
    assert reply["choices"][0]["finish_reason"] == "stop"
    again = chat(address).json()
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


def test_server_streams(server: subprocess.Popen[str]) -> None:
    address = address_of(server)
    body = {"messages": [{"role": "user", "content": QUESTION}], "stream": True}
    text = ""
    with httpx.stream("POST", f"{address}/v1/chat/completions", json=body, timeout=60) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in reply.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    for line in lines[:-1]:
        text += json.loads(line[6:])["choices"][0]["delta"].get("content", "")
    assert "Paris" in text


def test_server_answers_while_loading(ready: Place) -> None:
    process = ready.start("serve", "--port", "0")
    try:
        address = address_of(process)
        first = httpx.get(f"{address}/health")
        assert first.status_code in (200, 503)
        assert first.json()["status"] in ("ok", "loading")
        wait_ready(address)
    finally:
        process.kill()
        process.communicate()


def test_port_in_use(ready: Place, server: subprocess.Popen[str]) -> None:
    port = address_of(server).rsplit(":", 1)[1]
    result = ready.run("serve", "--port", port, check=False)
    assert result.returncode == 9
    assert port in result.stderr
    assert result.stderr.count("\n") == 1


def test_server_that_can_not_load_its_model_ends_and_says_why(ready: Place) -> None:
    result = ready.run("serve", "--port", "0", "--context", "100000000", check=False)
    assert result.returncode == 10
    assert "100,000,000 tokens" in result.stderr


def test_address_leads_somewhere(server: subprocess.Popen[str]) -> None:
    reply = httpx.get(address_of(server))
    assert reply.status_code == 200
    assert "SmolLM2" in reply.text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_server_stops_when_asked_to(ready: Place, number: signal.Signals) -> None:
    process = ready.start("serve", "--port", "0")
    wait_ready(address_of(process))
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode in (0, 130, -number)
    assert "Traceback" not in errors


# The file under our feet


def test_pack_replaced_and_deleted_while_running(fresh: Place) -> None:
    process = fresh.start("serve", "--port", "0", "--temperature", "0")
    try:
        address = address_of(process)
        fresh.pack.rename(fresh.pack.with_name("old"))
        fresh.pack.write_bytes(b"something else")
        fresh.pack.with_name("old").unlink()
        wait_ready(address)
        assert "Paris" in chat(address).text
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("how", ["truncated", "rewritten"])
def test_pack_overwritten_in_place(fresh: Place, how: str) -> None:
    process = fresh.start("ask", "Tell me a very long story.", "--max-tokens", "4000")
    assert process.stdout is not None
    assert process.stdout.read(1)
    size = fresh.pack.stat().st_size
    if how == "truncated":
        os.truncate(fresh.pack, 1 << 20)
    else:
        descriptor = os.open(fresh.pack, os.O_WRONLY)
        os.pwrite(descriptor, os.urandom(1 << 20), size // 2)
        os.close(descriptor)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == PackChangedError.exit_code
    assert "changed" in errors
    assert errors.count("\n") == 1


# Damage


def regions(pack: Path) -> dict[str, tuple[int, int]]:
    document = json.loads(satchel("verify", pack, "--json").stdout)
    return {item["name"]: (item["offset"], item["length"]) for item in document["regions"]}


def flip(path: Path, offset: int) -> None:
    descriptor = os.open(path, os.O_RDWR)
    byte = os.pread(descriptor, 1, offset)
    os.pwrite(descriptor, bytes([byte[0] ^ 0x40]), offset)
    os.close(descriptor)


@pytest.mark.parametrize("name", ["launcher", "runtime", "model", "model.chunks"])
def test_verify_names_what_was_damaged(fresh: Place, name: str) -> None:
    offset, length = regions(fresh.pack)[name]
    flip(fresh.pack, offset + length // 2)
    result = satchel("verify", fresh.pack, check=False)
    assert result.returncode == 6
    assert f"damaged: {name}" in result.stderr
    if name == "model":
        own = fresh.run("verify", check=False)
        assert own.returncode == 6
        assert "damaged: model" in own.stderr


def test_damaged_manifest_and_footer(fresh: Place) -> None:
    places = regions(fresh.pack)
    manifest = places["manifest"][0] + 100
    flip(fresh.pack, manifest)
    for outcome in (satchel("verify", fresh.pack, check=False), fresh.run("info", check=False)):
        assert outcome.returncode == 6
        assert "manifest is damaged" in outcome.stderr
    flip(fresh.pack, manifest)
    flip(fresh.pack, places["footer"][0] + 60)
    assert "footer is damaged" in satchel("verify", fresh.pack, check=False).stderr
    assert fresh.run("info", check=False).returncode == 71


def test_damaged_runtime_is_not_started(fresh: Place) -> None:
    offset, length = regions(fresh.pack)["runtime"]
    flip(fresh.pack, offset + length // 2)
    result = fresh.run("--version", check=False)
    assert result.returncode == 71
    assert result.stderr.count("\n") == 1
    assert not [path for path in (fresh.cache / "runtimes").iterdir() if path.is_dir()]


def test_pack_cut_short(fresh: Place) -> None:
    os.truncate(fresh.pack, fresh.pack.stat().st_size - 5000)
    result = fresh.run("--version", check=False)
    assert result.returncode == 71
    assert satchel("verify", fresh.pack, check=False).returncode == 4


def test_altered_runtime_is_repaired(fresh: Place) -> None:
    fresh.run("--version")
    library = next(fresh.runtime.rglob("libggml-base.so"))
    with library.open("r+b") as file:
        file.seek(1000)
        file.write(b"altered")
    assert "Paris" in fresh.run(*ASK).stdout


# What it says of itself


def test_info(ready: Place) -> None:
    document = json.loads(ready.run("info", "--json").stdout)
    assert document["machine"]["cpu_variant"]
    assert document["machine"]["physical_cores"] >= 1
    text = ready.run("info").stdout
    assert "mapped from the pack" in text
    assert "apache-2.0" in text


def test_licenses_begin_with_the_model(ready: Place) -> None:
    text = ready.run("licenses").stdout
    assert text.startswith("== model")
    assert "license: apache-2.0" in text[:400]
    for name in ("llama.cpp", "Python", "libc6", "zstd", "OpenSSL"):
        assert name in text


def test_cache_show_and_clear(fresh: Place) -> None:
    fresh.run("--version")
    shown = json.loads(fresh.run("cache", "show", "--json").stdout)
    assert [item["kind"] for item in shown] == ["runtime"]
    other = fresh.cache / "runtimes" / ("0" * 64)
    other.mkdir(mode=0o700)
    (other / "file").write_bytes(b"x" * 1000)
    said = fresh.run("cache", "clear").stdout
    assert f"removed runtime {other}" in said
    assert f"kept runtime {fresh.runtime}: this command runs from it" in said
    assert not other.exists()
    assert "Paris" in fresh.run(*ASK).stdout


def test_stub_alone_says_what_it_is(tmp_path: Path) -> None:
    stubs = json.loads(satchel("stub", "list", "--json").stdout)
    if not stubs:
        pytest.skip("no stub is built")
    alone = place(tmp_path, source=Path(stubs[0]["path"]))
    result = alone.run(*ASK, check=False)
    assert result.returncode == 4
    assert "stub" in result.stderr
