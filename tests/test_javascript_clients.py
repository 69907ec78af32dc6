"""A running pack, driven by the JavaScript libraries people use."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import javascript_clients
import pytest
from running_pack import address_of, place, wait_for

pytestmark = pytest.mark.pack

KEY = "a key of ours"
Run = Callable[[str, str], Any]


@pytest.fixture(scope="module")
def folder() -> Path:
    return javascript_clients.clients()


@pytest.fixture(scope="module")
def address(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    here = place(tmp_path_factory.mktemp("javascript"))
    server: subprocess.Popen[str] = here.start("serve", "--port", "0", SATCHEL_API_KEY=KEY)
    try:
        found = address_of(server)
        wait_for(lambda: httpx.get(f"{found}/health").status_code == 200, "loading the model")
        yield found
    finally:
        server.kill()
        server.communicate()


@pytest.fixture
def run(folder: Path, address: str) -> Run:
    return lambda client, scenario: javascript_clients.run(folder, client, scenario, address, KEY)


CLIENTS = ("openai", "ollama", "anthropic")


@pytest.mark.parametrize("client", CLIENTS)
def test_plain(run: Run, client: str) -> None:
    reply = run(client, "plain")
    assert "Paris" in reply["text"]
    assert reply["reason"] == ("end_turn" if client == "anthropic" else "stop")
    if client == "ollama":
        assert "Paris" in reply["generated"]
    elif client == "anthropic":
        assert reply["counted"] == reply["read"]
    else:
        usage = reply["usage"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


@pytest.mark.parametrize("client", CLIENTS)
def test_streamed(run: Run, client: str) -> None:
    reply = run(client, "streamed")
    assert "Paris" in reply["text"]
    if client == "anthropic":
        assert reply["kinds"][0] == "message_start"
        assert reply["kinds"][-1] == "message_stop"
        assert reply["kinds"].count("content_block_delta") > 3
    else:
        assert reply["chunks"] > 3
        assert (reply["tokens"] if client == "ollama" else reply["usage"]["completion_tokens"]) > 3


@pytest.mark.parametrize("client", ["openai", "anthropic"])
def test_streamed_through_the_clients_helper(run: Run, client: str) -> None:
    reply = run(client, "helper")
    assert "Paris" in reply["text"]
    assert reply["reason"] in ("stop", "end_turn")


def test_openai_forced_tool(run: Run) -> None:
    (call,) = run("openai", "tools")
    assert call["name"] == "get_weather"
    assert isinstance(json.loads(call["arguments"])["city"], str)


def test_anthropic_forced_tool(run: Run) -> None:
    reply = run("anthropic", "tools")
    assert reply["reason"] == "tool_use"
    for blocks in (reply["blocks"], reply["streamed"]):
        (block,) = blocks
        assert (block["type"], block["name"]) == ("tool_use", "get_weather")
        assert isinstance(block["input"]["city"], str)


def test_ollama_tools(run: Run) -> None:
    reply = run("ollama", "tools")
    assert reply["text"] or reply["calls"]


@pytest.mark.parametrize("client", CLIENTS)
def test_json_schema(run: Run, client: str) -> None:
    person = json.loads(run(client, "schema")["text"])
    assert set(person) == {"name", "age"}
    assert isinstance(person["age"], int)


@pytest.mark.parametrize("client", ["openai", "ollama"])
def test_embeddings(run: Run, client: str) -> None:
    reply = run(client, "embeddings")
    assert reply["sizes"] == [576, 576]
    if client == "openai":
        assert max(reply["apart"]) < 1e-5


def test_openai_responses(run: Run) -> None:
    reply = run("openai", "responses")
    assert "Paris" in reply["text"]
    assert reply["kinds"][0] == "response.created"
    assert reply["kinds"][-1] == "response.completed"


def test_ollama_lists(run: Run) -> None:
    assert run("ollama", "lists") == {"models": ["SmolLM2:latest"], "family": "llama"}


def test_anthropic_stop_sequence(run: Run) -> None:
    reply = run("anthropic", "stop")
    assert (reply["reason"], reply["which"]) == ("stop_sequence", "Paris")
    assert "Paris" not in reply["text"]


def test_openai_errors(run: Run) -> None:
    found = run("openai", "errors")
    assert {name: error["status"] for name, error in found.items()} == {
        "model": 404,
        "value": 400,
        "length": 400,
        "streamed": 400,
        "key": 401,
    }
    assert "SmolLM2" in found["model"]["message"]
    assert "temperature" in found["value"]["message"]
    assert "context" in found["length"]["message"]
    assert "top_p" in found["streamed"]["message"]
    assert found["model"]["kind"] == "NotFoundError"
    assert found["key"]["kind"] == "AuthenticationError"


def test_ollama_errors(run: Run) -> None:
    found = run("ollama", "errors")
    assert {name: error["kind"] for name, error in found.items()} == dict.fromkeys(
        ("model", "value", "pull", "key"), "ResponseError"
    )
    assert [found[name]["status"] for name in ("model", "value", "key")] == [404, 400, 401]
    assert "not found" in found["model"]["message"]
    assert "temperature" in found["value"]["message"]


def test_anthropic_errors(run: Run) -> None:
    found = run("anthropic", "errors")
    assert {name: error["status"] for name, error in found.items()} == {
        "model": 404,
        "value": 400,
        "streamed": 400,
        "key": 401,
    }
    assert found["model"]["kind"] == "NotFoundError"
    assert "max_tokens" in found["value"]["message"]


@pytest.mark.parametrize("client", CLIENTS)
def test_cancellation(run: Run, client: str, address: str) -> None:
    """The engine stops, and is there for the next."""
    reply = run(client, "cancellation")
    assert 3 <= reply["pieces"] < 200
    headers = {"Authorization": f"Bearer {KEY}"}
    wait_for(
        lambda: (
            not any(
                slot["is_processing"]
                for slot in httpx.get(f"{address}/slots", headers=headers).json()
            )
        ),
        "the end of all answers",
        10,
    )
    assert "Paris" in run(client, "plain")["text"]
