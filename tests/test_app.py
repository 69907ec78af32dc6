from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from engine_fixtures import NO_USAGE, ScriptedEngine, eventually
from face_fixtures import USAGE, scripted, send, state_of
from starlette.types import Message

from runtime_stub.engine.messages import (
    ChoiceEnd,
    Event,
    Failed,
    Finished,
    PromptRead,
    Status,
    Text,
)
from runtime_stub.server import bridge, openai, replies, streaming
from runtime_stub.server.app import make_app

END: list[Event | float] = [ChoiceEnd("stop"), Finished("stop", USAGE)]
HELLO: list[Event | float] = [PromptRead(10, 4), Text("Hel"), Text("lo"), *END]
CHAT = "/v1/chat/completions"


def chat(engine: ScriptedEngine, **fields: Any) -> httpx.Response:
    document = {"messages": [{"role": "user", "content": "Hi"}], **fields}
    return send(engine, "POST", CHAT, json=document)


def error_of(response: httpx.Response) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/json"
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return error


def events_of(response: httpx.Response) -> list[Any]:
    lines = [line for line in response.text.split("\n\n") if line and not line.startswith(":")]
    assert all(line.startswith("data: ") for line in lines)
    data = [line.removeprefix("data: ") for line in lines]
    return [json.loads(line) if line != "[DONE]" else line for line in data]


# What is answered.


def test_whole_answer() -> None:
    engine = scripted(HELLO)
    response = chat(engine, temperature=0.5)
    assert response.status_code == 200
    document = response.json()
    assert document["choices"][0]["message"] == {
        "role": "assistant",
        "content": "Hello",
        "refusal": None,
    }
    assert document["choices"][0]["finish_reason"] == "stop"
    assert (document["model"], document["object"]) == ("pack", "chat.completion")
    assert document["id"].startswith("chatcmpl-")
    assert document["usage"]["total_tokens"] == 12
    asked = engine.requests[0]
    assert [message["role"] for message in asked.messages] == ["system", "user"]
    assert (asked.sampling.temperature, asked.max_tokens) == (0.5, 100)


def test_streamed_answer() -> None:
    response = chat(scripted(HELLO), stream=True)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-store"
    *chunks, done = events_of(response)
    assert done == "[DONE]"
    choices = [chunk["choices"][0] for chunk in chunks]
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(choice["delta"].get("content", "") for choice in choices) == "Hello"
    assert [choice["finish_reason"] for choice in choices] == [None, None, None, "stop"]
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_usage_in_the_stream() -> None:
    response = chat(scripted(HELLO), stream=True, stream_options={"include_usage": True})
    *_, last, usage, done = events_of(response)
    assert last["choices"][0]["finish_reason"] == "stop"
    assert usage["choices"] == []
    assert usage["usage"]["prompt_tokens_details"] == {"cached_tokens": 4}
    assert done == "[DONE]"


def test_a_stream_begins_before_there_is_anything_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies give up on a server that says nothing while a prompt waits or is read."""
    monkeypatch.setattr(bridge, "BEGIN_SECONDS", 0.1)

    async def play() -> None:
        engine = scripted([5.0, *HELLO])
        client = Client(engine, stream=True)
        task = asyncio.create_task(client.run())
        await asyncio.sleep(0.05)
        assert client.sent == []
        await asyncio.wait_for(client.has_sent.wait(), 2)
        await asyncio.sleep(0.05)
        start, sign = client.sent
        assert (start["status"], sign["body"]) == (200, b": waiting\n\n")
        await gone_and_done(client, engine, task)

    asyncio.run(play())


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_what_comes_after_a_stream_began(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr(bridge, "BEGIN_SECONDS", 0.05)
    asked = {"messages": [{"role": "user", "content": "Hi"}]} if path == CHAT else {"prompt": "Hi"}
    body = {**asked, "stream": True}
    answered = send(scripted([0.3, *HELLO]), "POST", path, json=body)
    sign, *rest = answered.text.split("\n\n")
    assert sign == ": waiting"
    at_once = send(scripted(HELLO), "POST", path, json=body).text.split("\n\n")
    assert len(rest) == len(at_once)
    failed = send(scripted([0.3, Failed("timeout", "too slow")]), "POST", path, json=body)
    assert failed.status_code == 200
    last = json.loads(failed.text.split("\n\n")[-2].removeprefix("data: "))
    assert (last["error"]["code"], last["error"]["message"]) == ("timeout", "too slow")


def test_idle_stream_is_kept_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "KEEP_ALIVE_SECONDS", 0.02)
    engine = scripted([PromptRead(1, 0), 0.2, Text("x"), Finished("stop", NO_USAGE)])
    assert ": waiting\n\n" in chat(engine, stream=True).text


def test_stop() -> None:
    engine = scripted(HELLO)
    chat(engine, stop="END")
    assert engine.requests[0].stop == ("END",)


@pytest.mark.parametrize("model", ["pack", "pack:latest", "default", ""])
def test_names_of_the_model(model: str) -> None:
    assert chat(scripted(HELLO), model=model).status_code == 200


def test_models() -> None:
    document = send(scripted(), "GET", "/v1/models").json()
    assert document == {
        "object": "list",
        "data": [{"id": "pack", "object": "model", "created": 5, "owned_by": "satchel"}],
    }


@pytest.mark.parametrize(
    ("status", "code", "document"),
    [
        (Status("ready", 1.0), 200, {"status": "ok"}),
        (Status("loading", 0.25), 503, {"status": "loading", "progress": 0.25}),
        (Status("failed", message="no"), 503, {"status": "failed", "error": "no"}),
        (Status("closed"), 503, {"status": "closed"}),
        # It was loaded before, and is as able to answer as then.
        (Status("unloaded"), 200, {"status": "ok"}),
    ],
)
def test_health(status: Status, code: int, document: dict[str, Any]) -> None:
    response = send(with_status(status), "GET", "/health")
    assert (response.status_code, response.json()) == (code, document)


def test_health_before_the_first_request() -> None:
    engine = with_status(Status("unloaded"))
    engine._facts = None
    response = send(engine, "GET", "/health")
    assert (response.status_code, response.json()) == (503, {"status": "unloaded"})


def with_status(status: Status) -> ScriptedEngine:
    engine = scripted()
    engine._status = status
    return engine


# What is refused.


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b'{"messages": [{"role": "user", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]}",
        b'{"messages": [{"role": "user", "content": "\xff"}]}',
        b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
        b'{"messages": [{"role": "user", "content": "x"}], "top_p": 1e999}',
        b'{"messages": [{"role": "user", "content": "x"}], "seed": 1' + b"0" * 5000 + b"}",
    ],
)
def test_bad_body(body: bytes) -> None:
    response = send(scripted(), "POST", CHAT, content=body)
    assert response.status_code == 400
    assert error_of(response)["type"] == "invalid_request_error"


@pytest.mark.parametrize("field", ["temperature", "no_such_field", "tools", "max_tokens"])
def test_bad_field_is_named(field: str) -> None:
    response = chat(scripted(), **{field: "x"})
    assert response.status_code == 400
    assert field in error_of(response)["message"]
    assert error_of(response)["param"] == field


def test_unknown_model() -> None:
    response = chat(scripted(), model="gpt-4o")
    assert response.status_code == 404
    assert error_of(response)["code"] == "model_not_found"
    assert "pack" in error_of(response)["message"]


def test_unknown_path() -> None:
    response = send(scripted(), "GET", "/nothing/here")
    assert response.status_code == 404
    assert "/nothing/here" in error_of(response)["message"]


def test_wrong_method() -> None:
    response = send(scripted(), "GET", CHAT)
    assert response.status_code == 405
    assert "GET" in error_of(response)["message"]
    assert response.headers["allow"] == "POST"


def test_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "MAX_BODY", 1 << 20)
    response = send(scripted(), "POST", CHAT, content=b" " * ((1 << 20) + 1))
    assert response.status_code == 413
    assert "1 MB" in error_of(response)["message"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("event", "status", "code"),
    [
        (Failed("prompt", "bad template"), 400, None),
        (Failed("too-long", "9 tokens and 5", "Shorten it"), 400, "context_length_exceeded"),
        (Failed("unsupported", "no tools"), 400, "unsupported"),
        (Failed("busy", "too many"), 503, "busy"),
        (Failed("timeout", "too slow"), 503, "timeout"),
        (Failed("changed", "another file"), 503, None),
        (Failed("engine", "broken"), 503, None),
        (Failed("closed", "shutting down"), 503, None),
    ],
)
def test_failures(event: Failed, status: int, code: str | None, stream: bool) -> None:
    response = chat(scripted([event]), stream=stream)
    assert response.status_code == status
    assert ("retry-after" in response.headers) == (event.kind in ("busy", "timeout"))
    error = error_of(response)
    assert (error["code"], error["type"]) == (
        code,
        "invalid_request_error" if status == 400 else "server_error",
    )
    assert event.message in error["message"]
    assert event.hint in error["message"]


def test_failure_in_the_middle() -> None:
    script: list[Event | float] = [PromptRead(1, 0), Text("a"), Failed("engine", "broken")]
    response = chat(scripted(list(script)))
    assert response.status_code == 503
    *_, last = events_of(chat(scripted(list(script)), stream=True))
    assert last["error"]["message"] == "broken"


def test_mistake_in_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(openai, "chat_request", fail)

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(make_app(state_of(scripted())), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post(CHAT, json={"messages": []})

    response = asyncio.run(send())
    assert response.status_code == 500
    assert error_of(response)["type"] == "server_error"


# Clients that go away. Spoken in ASGI, as the server speaks it.


class Client:
    """A client that disconnects when told to."""

    def __init__(self, engine: ScriptedEngine, version: str = "2.3", **fields: Any) -> None:
        self.sent: list[Message] = []
        self.gone = asyncio.Event()
        self.has_sent = asyncio.Event()
        self._app = make_app(state_of(engine))
        document = {"messages": [{"role": "user", "content": "Hi"}], **fields}
        self._body: bytes | None = json.dumps(document).encode()
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": version},
            "http_version": "1.1",
            "method": "POST",
            "path": CHAT,
            "raw_path": CHAT.encode(),
            "query_string": b"",
            "headers": [],
            "scheme": "http",
        }

    async def run(self) -> None:
        await self._app(self.scope, self._receive, self._send)

    async def _receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if self.gone.is_set() and self.scope["asgi"]["spec_version"] == "2.4":  # type: ignore[index]
            raise OSError
        self.sent.append(message)
        self.has_sent.set()


async def gone_and_done(client: Client, engine: ScriptedEngine, task: asyncio.Task[None]) -> None:
    client.gone.set()
    done, _ = await asyncio.wait({task}, timeout=5)  # with an exception or without
    assert done
    task.exception()
    assert await asyncio.to_thread(eventually, engine.tickets[0].cancelled.is_set)


FOREVER: list[Event | float] = [Text("x"), 0.05] * 1000


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "LOOK_SECONDS", 0.02)


@pytest.mark.parametrize("version", ["2.3", "2.4"])
@pytest.mark.parametrize("stream", [False, True])
def test_gone_while_the_prompt_is_read(stream: bool, version: str) -> None:
    async def play() -> None:
        engine = scripted([])
        client = Client(engine, version, stream=stream)
        task = asyncio.create_task(client.run())
        await asyncio.sleep(0.05)
        assert not engine.tickets[0].cancelled.is_set()
        await gone_and_done(client, engine, task)

    asyncio.run(play())


def test_gone_while_the_model_is_loaded() -> None:
    """In Ollama's interface, where a request may ask for nothing else."""

    async def play() -> None:
        engine = ScriptedEngine(status=Status("loading"))
        client = Client(engine, model="pack", messages=[])
        client.scope["path"] = "/api/chat"
        task = asyncio.create_task(client.run())
        await asyncio.sleep(0.1)
        assert not task.done()
        client.gone.set()
        await asyncio.wait_for(task, 5)

    asyncio.run(play())


@pytest.mark.parametrize("version", ["2.3", "2.4"])
def test_gone_during_the_answer(version: str) -> None:
    """Also when events come without a pause."""

    async def play() -> None:
        flow: list[Event | float] = [Text("x"), 0.005]
        engine = scripted([PromptRead(1, 0), *flow * 4000])
        client = Client(engine, version)
        task = asyncio.create_task(client.run())
        await asyncio.sleep(0.1)
        await gone_and_done(client, engine, task)

    asyncio.run(play())


@pytest.mark.parametrize("version", ["2.3", "2.4"])
def test_gone_during_the_stream(version: str) -> None:
    async def play() -> None:
        engine = scripted([PromptRead(1, 0), *FOREVER])
        client = Client(engine, version, stream=True)
        task = asyncio.create_task(client.run())
        await client.has_sent.wait()
        await gone_and_done(client, engine, task)

    asyncio.run(play())


@pytest.mark.parametrize("version", ["2.3", "2.4"])
def test_gone_before_the_stream_begins(version: str) -> None:
    """The generator of the stream does not even start then."""

    async def play() -> None:
        engine = scripted([0.1, PromptRead(1, 0), *FOREVER])
        client = Client(engine, version, stream=True)
        client_looks, bridge.LOOK_SECONDS = bridge.LOOK_SECONDS, 60.0
        try:
            task = asyncio.create_task(client.run())
            await asyncio.sleep(0.02)
            await gone_and_done(client, engine, task)
        finally:
            bridge.LOOK_SECONDS = client_looks

    asyncio.run(play())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("script", [[], [PromptRead(1, 0)], [PromptRead(1, 0), *FOREVER]])
def test_task_cancelled(stream: bool, script: list[Event | float]) -> None:
    """As a server does that has waited long enough for its running requests."""

    async def play() -> None:
        engine = scripted(list(script))
        task = asyncio.create_task(Client(engine, stream=stream).run())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert engine.tickets[0].cancelled.is_set()

    asyncio.run(play())


def test_events_after_the_loop_has_ended() -> None:
    """The engine's thread must survive them; the request is cancelled."""
    engine = scripted([0.1, PromptRead(1, 0), 0.1, Text("x")])

    async def play() -> None:
        task = asyncio.create_task(Client(engine).run())
        await asyncio.sleep(0.05)
        task.cancel()

    asyncio.run(play())
    assert eventually(engine.tickets[0].cancelled.is_set)
