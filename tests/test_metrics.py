from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from engine_fixtures import ScriptedEngine
from face_fixtures import FACTS, USAGE, scripted, state_of, state_with_adapters
from starlette.types import ASGIApp

from runtime_stub.engine.messages import (
    Begun,
    ChoiceEnd,
    Embeddings,
    Event,
    Failed,
    Finished,
    PromptRead,
    Text,
)
from runtime_stub.server.app import make_app
from runtime_stub.server.tally import Histogram

ANSWER: list[Event | float] = [
    PromptRead(10, 4),
    Text("a"),
    Text("b"),
    ChoiceEnd("stop"),
    Finished("stop", USAGE),
]
CHAT = ("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]})
Call = tuple[str, str, Any]


def play(app: ASGIApp, *calls: Call) -> list[httpx.Response]:
    """The replies to one request after the other."""

    async def send() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return [await client.request(m, path, json=body) for m, path, body in calls]

    return asyncio.run(send())


def metrics(engine: ScriptedEngine, *calls: Call) -> dict[str, float]:
    app = make_app(state_of(engine))
    *_, response = play(app, *calls, ("GET", "/metrics", None))
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = [line for line in response.text.splitlines() if not line.startswith("#")]
    found = [re.fullmatch(r"(\S+?(?:{.*})?) (\S+)", line) for line in lines]
    assert all(found)
    return {match[1]: float(match[2]) for match in found if match}


def test_nothing_yet() -> None:
    told = metrics(scripted())
    assert told["satchel_ready"] == 1
    assert told["satchel_context_tokens"] == FACTS.context
    assert told["satchel_requests_waiting"] == told["satchel_requests_running"] == 0
    assert told["satchel_completion_tokens_total"] == 0


def test_answers() -> None:
    told = metrics(scripted(ANSWER, ANSWER), CHAT, CHAT)
    assert told["satchel_prompt_tokens_total"] == 20
    assert told["satchel_cached_prompt_tokens_total"] == 8
    assert told["satchel_completion_tokens_total"] == 4
    assert told["satchel_prompt_seconds_total"] == pytest.approx(0.2)
    assert told["satchel_completion_seconds_total"] == pytest.approx(0.4)
    assert told['satchel_answers_total{reason="stop"}'] == 2
    assert told["satchel_first_token_seconds_count"] == 2
    assert told['satchel_tokens_per_second_bucket{le="10.0"}'] == 2
    assert told['satchel_tokens_per_second_bucket{le="5.0"}'] == 0
    assert told["satchel_tokens_per_second_sum"] == pytest.approx(20)
    assert told["satchel_requests_waiting"] == told["satchel_requests_running"] == 0
    label = 'method="POST",route="/v1/chat/completions",status="200"'
    assert told[f"satchel_http_requests_total{{{label}}}"] == 2


def test_failures_and_strange_requests() -> None:
    told = metrics(
        scripted([Failed("busy", "too many")]),
        CHAT,
        ("GET", "/nothing/here", None),
        ("BREW", "/nothing/else", None),
        ("GET", "/v1/models/x/y", None),
    )
    assert told['satchel_failures_total{kind="busy"}'] == 1
    labels = [name for name in told if name.startswith("satchel_http_requests_total")]
    assert labels == [
        'satchel_http_requests_total{method="GET",route="/v1/models/{id:path}",status="404"}',
        'satchel_http_requests_total{method="GET",route="none",status="404"}',
        'satchel_http_requests_total{method="POST",route="/v1/chat/completions",status="503"}',
        'satchel_http_requests_total{method="other",route="none",status="404"}',
    ]


def test_embeddings() -> None:
    call = ("POST", "/v1/embeddings", {"input": "a"})
    assert metrics(scripted([Embeddings(((1.0,),), 7)]), call)["satchel_prompt_tokens_total"] == 7


async def polled(
    ask: Callable[[], Awaitable[httpx.Response]], is_it: Callable[[httpx.Response], bool]
) -> httpx.Response:
    """The first reply that is what is waited for; the last one, where none is for long."""
    until = time.monotonic() + 20
    while not is_it(reply := await ask()) and time.monotonic() < until:
        await asyncio.sleep(0.01)
    return reply


def is_running(metrics: httpx.Response) -> bool:
    found = re.search(r"^satchel_requests_running (\S+)$", metrics.text, re.MULTILINE)
    return found is not None and float(found[1]) > 0


def is_processing(slots: httpx.Response) -> bool:
    return any(slot["is_processing"] for slot in slots.json())


def test_requests_under_way() -> None:
    async def watch() -> list[Any]:
        engine = scripted([], [Begun((1,)), PromptRead(1, 0)])
        app = make_app(dataclasses.replace(state_of(engine), parallel=2))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            tasks = [asyncio.create_task(client.post(CHAT[1], json=CHAT[2])) for _ in range(2)]
            # The engine tells from threads of its own: of the slot, then that it has read.
            during = await polled(lambda: client.get("/metrics"), is_running)
            seen = [during.text, (await client.get("/slots")).json()]
            for ticket in engine.tickets:
                ticket.cancel()
            await asyncio.gather(*tasks)
            seen += [(await client.get("/metrics")).text, (await client.get("/slots")).json()]
            return seen

    during, slots, after, free = asyncio.run(watch())
    assert re.search(r"^satchel_requests_waiting 1\.0$", during, re.MULTILINE)
    assert re.search(r"^satchel_requests_running 1\.0$", during, re.MULTILINE)
    assert re.search(r"^satchel_requests_waiting 0\.0$", after, re.MULTILINE)
    assert re.search(r"^satchel_requests_running 0\.0$", after, re.MULTILINE)
    assert slots == [
        {"id": 0, "model": "pack", "is_processing": False},
        {"id": 1, "model": "pack", "is_processing": True},
    ]
    assert not any(slot["is_processing"] for slot in free)


def test_slots_of_an_engine_that_answers_for_several_models() -> None:
    async def watch() -> Any:
        engine = scripted([Begun((1,)), PromptRead(1, 0)])
        app = make_app(dataclasses.replace(state_with_adapters(engine), parallel=2))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            body = {**CHAT[2], "model": "pack:red"}
            task = asyncio.create_task(client.post(CHAT[1], json=body))
            reply = await polled(lambda: client.get("/slots"), is_processing)
            engine.tickets[0].cancel()
            await task
            return reply.json()

    assert asyncio.run(watch()) == [
        {"id": 0, "model": "pack", "is_processing": False},
        {"id": 1, "model": "pack", "is_processing": True},
    ]


def test_histogram() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 3.0):
        histogram.add(value)
    assert (histogram.cumulative(), histogram.total) == ([2, 3, 4], 6.0)


def test_props() -> None:
    (response,) = play(make_app(state_of(scripted())), ("GET", "/props", None))
    document = response.json()
    assert (document["model_alias"], document["total_slots"]) == ("pack", 4)
    settings = document["default_generation_settings"]
    assert (settings["n_ctx"], settings["params"]["temperature"]) == (FACTS.context, 0.25)
    assert document["modalities"] == {"vision": False, "audio": False}
    assert document["model"]["vocabulary"] == FACTS.vocabulary


def test_access_log() -> None:
    lines: list[str] = []
    app = make_app(state_of(scripted(ANSWER)), access_log=lines.append)
    play(app, CHAT, ("GET", "/a%0a%1b%5b2J%7f%e2%80%ae" + "x" * 1000, None))
    assert all(line.isascii() and line.isprintable() for line in lines)
    chat, strange = map(json.loads, lines)
    assert set(chat) == {
        "time", "client", "method", "path", "route", "status", "bytes", "seconds",
    }  # fmt: skip
    assert (chat["method"], chat["path"], chat["status"]) == ("POST", CHAT[1], 200)
    assert (chat["route"], chat["client"]) == (CHAT[1], "127.0.0.1")
    assert chat["bytes"] > 100
    assert chat["time"].endswith("+00:00")
    assert strange["path"].startswith("/a\n\x1b[2J\x7f\u202e")
    assert (strange["route"], strange["status"], len(strange["path"])) == (None, 404, 500)
