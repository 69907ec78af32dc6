"""A running pack in a container of 512 MB, and requests that together want more than there is.

Each is as long as a request may be, or as demanding as one of a few words can be. What does not
fit is refused; the kernel kills nothing, and nothing is started anew.
"""

from __future__ import annotations

import json
import random
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from running_pack import QUESTION, Place, address_of, place, wait_for
from surroundings import in_group, killed_for_memory, memory_limit

from runtime_stub.server.replies import MAX_BODY

pytestmark = [pytest.mark.pack, pytest.mark.slow]
CHAT = "/v1/chat/completions"
LONG = MAX_BODY - (64 << 10)


def filled(before: str, one: str, after: str) -> str:
    """As many of `one` as fit between the others, with commas."""
    count = (LONG - len(before) - len(after)) // len(one.encode()) - 1
    return f"{before}{(one * count)[:-1]}{after}"


def asking(content: str) -> str:
    return f'{{"max_tokens":3,"messages":[{{"role":"user","content":"{content}"}}]}}'


def with_schema(schema: str) -> str:
    shape = f'{{"type":"json_schema","json_schema":{{"name":"x","schema":{schema}}}}}'
    return f'{{"messages":[{{"role":"user","content":"x"}}],"response_format":{shape}}}'


MIX: dict[str, tuple[str, Callable[[], str]]] = {
    "a long text": (CHAT, lambda: asking("word " * (LONG // 5))),
    "a long text beyond ASCII": (CHAT, lambda: asking("\u20ac" * (LONG // 3))),
    "tiny messages": (
        CHAT, lambda: filled('{"messages":[', '{"role":"user","content":""},', "]}")
    ),
    "tiny parts": (
        CHAT,
        lambda: filled(
            '{"messages":[{"role":"user","content":[', '{"type":"text","text":""},', "]}]}"
        ),
    ),
    "tiny messages for Ollama": (
        "/api/chat",
        lambda: filled('{"model":"SmolLM2","messages":[', '{"role":"user","content":""},', "]}"),
    ),
    "tiny messages for Anthropic": (
        "/v1/messages",
        lambda: filled('{"max_tokens":3,"messages":[', '{"role":"user","content":""},', "]}"),
    ),
    "tiny items": (
        "/v1/responses", lambda: filled('{"input":[', '{"role":"user","content":""},', "]}")
    ),
    "a schema of many properties": (
        CHAT,
        lambda: with_schema(
            '{"type":"object","properties":{'
            + ",".join(f'"p{number}":{{}}' for number in range(LONG // 14))
            + "}}"
        ),
    ),
    "a schema of many values": (
        CHAT,
        lambda: with_schema(f'{{"enum":[{",".join(map(str, range(LONG // 9)))}]}}'),
    ),
    "many tokens": ("/v1/completions", lambda: filled('{"prompt":[', "1000,", "]}")),
    "many texts to embed": ("/v1/embeddings", lambda: filled('{"input":[', '"a",', "]}")),
    "a long text to embed": (
        "/v1/embeddings", lambda: json.dumps({"input": "word " * (LONG // 5)})
    ),
    "a text to embed that fits the model": (
        "/v1/embeddings", lambda: json.dumps({"input": "word " * 8000})
    ),
    "nesting": (CHAT, lambda: '{"messages":' + "[" * (LONG // 2) + "]" * (LONG // 2) + "}"),
    "a text to count": ("/tokenize", lambda: json.dumps({"content": "\u20ac" * 250_000})),
    "many choices": (
        CHAT,
        lambda: json.dumps(
            {
                "messages": [{"role": "user", "content": "word " * 1500}],
                "n": 4,
                "max_tokens": 20,
                "logprobs": True,
                "top_logprobs": 20,
            }
        ),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Place:
    found = place(tmp_path_factory.mktemp("ready"))
    found.run("--version")
    return found


@pytest.fixture
def group() -> Iterator[Path]:
    with memory_limit(512 << 20) as found:
        yield found


def processes(group: Path) -> set[str]:
    return set((group / "cgroup.procs").read_text().split())


@pytest.mark.timeout(900)
@pytest.mark.parametrize("rounds", [1, pytest.param(3, marks=pytest.mark.all)])
def test_a_mix_beyond_memory(ready: Place, group: Path, rounds: int) -> None:
    server = subprocess.Popen(
        in_group(group, [ready.pack, "serve", "--port", "0", "--temperature", "0"]),
        env=ready.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        address = address_of(server)
        wait_for(lambda: httpx.get(f"{address}/health").status_code == 200, "loading", 120)
        first = processes(group)
        statuses: Counter[int] = Counter()
        order = [*MIX] * rounds
        random.Random(5).shuffle(order)  # noqa: S311

        def work() -> None:
            while order:
                path, make = MIX[order.pop()]
                reply = httpx.post(
                    f"{address}{path}",
                    content=make().encode(),
                    headers={"content-type": "application/json"},
                    timeout=300,
                )
                statuses[reply.status_code] += 1
                if reply.status_code not in (200, 400):
                    assert reply.status_code in (413, 503), reply.text[:300]
                    assert "error" in reply.json(), reply.text[:300]

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert statuses.total() == rounds * len(MIX), statuses
        assert killed_for_memory(group) == 0
        assert processes(group) == first, "the engine is the same"
        body = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 20}
        assert "Paris" in httpx.post(f"{address}{CHAT}", json=body, timeout=120).text
    finally:
        server.kill()
        server.communicate()
