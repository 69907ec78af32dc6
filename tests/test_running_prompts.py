"""Prompts that a real server keeps: there again after it was stopped, for its owner alone."""

from __future__ import annotations

import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from running_pack import Place, address_of, place, wait_for

pytestmark = pytest.mark.pack

SYSTEM = " ".join(f"Rule {n}: be kind, short and true about matter {n * n}." for n in range(30))


@pytest.fixture
def ready(tmp_path: Path) -> Place:
    found = place(tmp_path)
    found.run("--version")
    return found


@contextmanager
def server(ready: Place, *options: str) -> Iterator[str]:
    """Its address. It is ended as a person ends it."""
    process = ready.start("serve", "--port", "0", "--temperature", "0", "--parallel", "2", *options)
    try:
        yield address_of(process)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()


def cached(address: str, question: str, system: str = SYSTEM) -> int:
    """How many tokens of the prompt needed no reading."""
    messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
    body = {"messages": messages, "max_tokens": 4}
    reply: dict[str, Any] = httpx.post(
        f"{address}/v1/chat/completions", json=body, timeout=60
    ).json()
    return int(reply["usage"]["prompt_tokens_details"]["cached_tokens"])


def files(ready: Place) -> list[Path]:
    return sorted((ready.cache / "prompts").iterdir())


def shown(ready: Place) -> str:
    return ready.run("cache", "show").stdout


def test_from_one_start_to_the_next(ready: Place) -> None:
    with server(ready, "--prompt-cache") as address:
        assert cached(address, "Who are you?") == 0
    (path,) = files(ready)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with server(ready, "--prompt-cache") as address:
        assert cached(address, "What is rule seven?") > 400
    # It is found by those who look into the cache, and goes when they say so.
    assert "\nprompt " in shown(ready)
    assert "removed prompt" in ready.run("cache", "clear").stdout
    assert files(ready) == []
    with server(ready, "--prompt-cache", "1GB") as address:
        assert cached(address, "Who are you?") == 0


def test_written_while_nobody_asks_and_after_a_crash_still_there(ready: Place) -> None:
    process = ready.start("serve", "--port", "0", "--parallel", "2", "--prompt-cache", "100MB")
    try:
        cached(address_of(process), "Who are you?")
        wait_for(lambda: any(p.suffix == ".prompt" for p in files(ready)), "the file")
    finally:
        process.kill()
        process.communicate()
    with server(ready, "--prompt-cache", "100MB") as address:
        assert cached(address, "Who are you?") > 400


@pytest.mark.parametrize("size", ["1MB", "0"])
def test_bounds(ready: Place, size: str) -> None:
    with server(ready, "--prompt-cache", size) as address:
        cached(address, "Who are you?")
    assert size == "0" or files(ready) == []
    assert size != "0" or not (ready.cache / "prompts").exists()


def test_nothing_without_the_option(ready: Place) -> None:
    with server(ready) as address:
        cached(address, "Who are you?")
    assert not (ready.cache / "prompts").exists()


def test_no_folder_for_it(ready: Place) -> None:
    (ready.cache / "prompts").write_text("mine")
    (ready.pack.parent / ".satchel-cache").write_text("mine")
    result = ready.run(
        *("serve", "--port", "0", "--prompt-cache"),
        check=False,
        SATCHEL_CACHE=str(ready.cache),
    )
    assert result.returncode not in (0, 1)
    assert "no cache folder can be written" in result.stderr


def test_a_size_that_is_none(ready: Place) -> None:
    result = ready.run("serve", "--prompt-cache", "much", check=False)
    assert result.returncode == 2
    assert "a size is a number" in result.stderr
