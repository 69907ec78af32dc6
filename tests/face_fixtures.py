"""What the tests of faces share: a model that is served, asked in process or over a socket."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx
import uvicorn
from engine_fixtures import ScriptedEngine, eventually

from runtime_stub.engine.messages import Event, ModelFacts, Request, Sampling, Usage
from runtime_stub.server.app import make_app
from runtime_stub.server.engines import Adapted
from runtime_stub.server.state import Adapter, Defaults, Served, State

USAGE = Usage(10, 4, 2, 0.1, 0.2)
FACTS = ModelFacts(
    description="llama 1B",
    parameters=1_235_814_432,
    size=800,
    trained_context=8192,
    context=4096,
    context_reason="",
    threads=1,
    cpu_variant="",
    embeddings=True,
    rerank=False,
    vocabulary=100,
    template="model",
)
DETAILS = {
    "architecture": "llama",
    "quantization": "Q4_0",
    "parameters": 1_235_814_432,
    "context_length": 8192,
    "licence": {"license": "apache-2.0"},
}


def scripted(*scripts: list[Event | float]) -> ScriptedEngine:
    """A scripted engine whose model is known."""
    engine = ScriptedEngine(*scripts)
    engine._facts = FACTS
    return engine


def state_of(engine: ScriptedEngine) -> State:
    """`engine`, served as "pack", which has a system prompt and a limit; four at once."""
    defaults = Defaults(Sampling(temperature=0.25, seed=7), system="Be brief.", max_tokens=100)
    served = Served(
        "pack", engine, defaults, created=5, size=800, sha256="ab" * 32, details=DETAILS
    )
    return State((served,), parallel=4)


def state_with_adapters(engine: ScriptedEngine) -> State:
    """`engine`, served as "pack", and with each of its two adapters, of which one always works."""
    adapters = (Adapter("red", 0.5, always=False), Adapter("blue", 1.0, always=True))
    (served,) = state_of(engine).models
    served = replace(served, adapters=adapters)
    return State(
        (
            served,
            replace(served, name="pack:base", engine=Adapted(engine, ())),
            replace(served, name="pack:red", engine=Adapted(engine, (("red", None),))),
        )
    )


def send(engine: ScriptedEngine, method: str, path: str, **arguments: Any) -> httpx.Response:
    """The reply of an application that serves `engine`."""
    return send_to(state_of(engine), method, path, **arguments)


def send_to(state: State, method: str, path: str, **arguments: Any) -> httpx.Response:
    """The reply of an application that serves `state`."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(make_app(state))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **arguments)

    return asyncio.run(ask())


def asked_of(engine: ScriptedEngine) -> Request:
    """What the engine was asked first, which was to generate."""
    request = engine.requests[0]
    assert isinstance(request, Request)
    return request


@contextmanager
def serving(engine: ScriptedEngine) -> Iterator[str]:
    """Serve `engine` on this machine; gives the URL."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(make_app(state_of(engine)), log_level="error", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            assert eventually(lambda: server.started)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(5)
