"""Crowds of clients that leave whenever they like: nothing is lost, and nothing grows."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import statistics
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from running_pack import QUESTION, Place, address_of, place, wait_for

pytestmark = pytest.mark.pack

CLIENTS = 200
CHAT = "/v1/chat/completions"
GROWTH = 24 << 20
"""Bytes by which memory may grow after the warm-up: allocators keep some of what is in use."""
ENDLESS = {"0": -100, "2": -100}
"""Against the tokens that end a text and an answer: it goes on for as long as it may."""


@dataclass
class Seen:
    """What the clients were told, and what a watcher saw meanwhile."""

    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    memory: list[tuple[float, int]] = field(default_factory=list)
    """Seconds since the start, and bytes that both processes hold."""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return place(tmp_path_factory.mktemp("crowd"))


@dataclass
class Server:
    """A running pack."""

    process: subprocess.Popen[str]
    address: str
    told: list[str]
    """Lines of its log."""

    def metric(self, name: str) -> float:
        text = httpx.get(f"{self.address}/metrics", timeout=30).text
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.M))

    def busy(self) -> bool:
        slots = httpx.get(f"{self.address}/slots", timeout=30).json()
        return any(slot["is_processing"] for slot in slots)

    def memory(self) -> int:
        """Bytes of its own that server and engine hold; the mapped model is not among them."""
        threads = Path("/proc", str(self.process.pid), "task").iterdir()
        family = [word for thread in threads for word in (thread / "children").read_text().split()]
        total = 0
        for process in (str(self.process.pid), *family):
            found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
            total += int(found[1]) << 10 if found else 0
        return total


@contextlib.contextmanager
def serving(here: Place, *arguments: str) -> Iterator[Server]:
    process = here.start("serve", "--port", "0", "--temperature", "0", *arguments)
    told: list[str] = []
    try:
        address = address_of(process)
        assert process.stderr is not None
        reader = threading.Thread(target=told.extend, args=(process.stderr,), daemon=True)
        reader.start()
        wait_for(lambda: httpx.get(f"{address}/health").status_code == 200, "loading the model")
        yield Server(process, address, told)
    finally:
        process.kill()
        process.wait()
        reader.join(10)
        process.communicate()


def question(chance: random.Random) -> dict[str, Any]:
    words = " ".join(chance.choice(("tell", "me", "why", "the", "sea", "is")) for _ in range(12))
    return {
        "messages": [{"role": "user", "content": words}],
        "max_tokens": chance.choice((1, 8, 200)),
        "stream": chance.random() < 0.7,
        "n": 2 if chance.random() < 0.1 else 1,
    }


async def come_and_go(address: str, number: int, until: float, seen: Seen) -> None:
    """Connect, ask, and leave at a random moment, again and again."""
    chance = random.Random(number)  # noqa: S311
    host, port = address.removeprefix("http://").rsplit(":", 1)
    while time.monotonic() < until:
        asked = json.dumps(question(chance)).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(asked)}\r\n\r\n"
        data = head.encode() + asked
        if chance.random() < 0.1:
            data = data[: chance.randrange(len(data))]  # not even a whole question
        try:
            reader, writer = await asyncio.open_connection(host, int(port))
        except OSError as error:
            seen.wrong.append(f"no connection: {error}")
            return
        try:
            writer.write(data)
            with anyio.move_on_after(chance.expovariate(0.7)):
                if line := await reader.readline():
                    seen.statuses[int(line.split()[1])] += 1
                while await reader.read(65536):
                    pass
        except OSError as error:
            seen.wrong.append(f"broken off: {error}")
        finally:
            if chance.random() < 0.5:
                writer.transport.abort()
            else:
                writer.close()
        await asyncio.sleep(chance.random() * 0.2)


async def crowd(server: Server, seconds: float) -> Seen:
    seen = Seen()
    started = time.monotonic()
    tasks = [
        asyncio.create_task(come_and_go(server.address, number, started + seconds, seen))
        for number in range(CLIENTS)
    ]
    while not all(task.done() for task in tasks):
        seen.memory.append((time.monotonic() - started, server.memory()))
        await asyncio.sleep(0.5)
    await asyncio.gather(*tasks)
    return seen


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "seconds", [15, pytest.param(120, marks=pytest.mark.all)], ids=["short", "long"]
)
def test_clients_that_come_and_go(here: Place, seconds: int) -> None:
    with serving(here, "--context", "2048") as server:
        seen = asyncio.run(crowd(server, seconds))
        assert not seen.wrong, seen.wrong[:5]
        assert set(seen.statuses) <= {200, 503}, seen.statuses
        assert seen.statuses[200] > 0, seen.statuses
        wait_for(lambda: not server.busy(), "the end of all answers", 20)
        assert server.metric("satchel_requests_waiting") == 0
        assert server.metric("satchel_requests_running") == 0
        reply = httpx.post(
            f"{server.address}{CHAT}",
            json={"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 12},
            timeout=30,
        )
        assert "Paris" in reply.json()["choices"][0]["message"]["content"]
        early = [size for at, size in seen.memory if 0.3 * seconds < at < 0.5 * seconds]
        late = [size for at, size in seen.memory if at > 0.8 * seconds]
        grown = statistics.median(late) - statistics.median(early)
        assert grown < GROWTH, f"{grown / 1e6:.1f} MB in {seconds / 2:.0f} s"
        assert server.told == []


def ask(client: httpx.Client, address: str, **fields: Any) -> httpx.Response:
    body = {
        "messages": [{"role": "user", "content": "Tell me a very long story."}],
        "logit_bias": ENDLESS,
        **fields,
    }
    return client.post(f"{address}{CHAT}", json=body, timeout=120)


def test_more_than_may_wait(here: Place) -> None:
    """One is answered, two wait, all others are told when to come back."""
    together = threading.Barrier(8)

    def crowd_in(client: httpx.Client, address: str) -> httpx.Response:
        # All are to be there before the first answer ends. So that is a long one, and they share a
        # client: to make one takes as long as a dozen tokens.
        together.wait(30)
        return ask(client, address, max_tokens=400)

    with (
        serving(here, "--parallel", "1", "--queue", "2") as server,
        httpx.Client() as client,
        ThreadPoolExecutor(8) as pool,
    ):
        futures = [pool.submit(crowd_in, client, server.address) for _ in range(8)]
        replies = [future.result() for future in futures]
        assert sorted(reply.status_code for reply in replies) == [200] * 3 + [503] * 5
        for reply in replies:
            if reply.status_code == 503:
                assert int(reply.headers["retry-after"]) >= 1
                assert "waiting" in reply.json()["error"]["message"]
        assert server.metric("satchel_requests_waiting") == 0


def test_a_request_that_takes_too_long(here: Place) -> None:
    with (
        serving(here, "--timeout", "1.5", "--parallel", "1") as server,
        httpx.Client() as client,
    ):
        started = time.monotonic()
        reply = ask(client, server.address, max_tokens=5000)
        assert time.monotonic() - started < 20
        assert reply.status_code == 503, reply.text
        assert int(reply.headers["retry-after"]) >= 1
        assert "too long" in reply.json()["error"]["message"]
        wait_for(lambda: not server.busy(), "a free slot", 10)
