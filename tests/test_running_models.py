"""A real pack of several models and adapters: who answers, and who is in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import tiny_models
from running_pack import Place, address_of, place, sample_model, satchel, wait_for

pytestmark = [pytest.mark.pack, pytest.mark.slow]

RECIPE = """
name = "both"
max_tokens = 24

[sampling]
temperature = 0

[[models]]
name = "smol"
file = "{sample}"
context = 512
system = "You are a helpful assistant."

[[models]]
name = "terse"
file = "{sample}"
context = 512
system = "You are a helpful assistant."
max_tokens = 3

[[models]]
name = "tiny"
file = "tiny.gguf"
context = 256
[[models.adapters]]
name = "red"
file = "red.gguf"
[[models.adapters]]
name = "blue"
file = "blue.gguf"
apply = "always"
"""
CAPITAL = "What is the name of the capital of France?"


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several")
    tiny_models.plain(folder / "tiny.gguf")
    for name in ("red", "blue"):
        tiny_models.adapter(folder / f"{name}.gguf", name)
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE.format(sample=sample_model()), encoding="utf-8")
    satchel("pack", "--recipe", recipe, "-o", folder / "both")
    return folder / "both"


@pytest.fixture
def several(pack: Path, tmp_path: Path) -> Place:
    return place(tmp_path, source=pack)


class Server:
    """A running server and what it is asked."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client

    def ask(self, model: str | None, prompt: str = CAPITAL, **more: Any) -> str:
        body: dict[str, Any] = {"prompt": prompt, **more}
        if model is not None:
            body["model"] = model
        answer = self.client.post("/v1/completions", json=body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["choices"][0]["text"])

    def chat(self, model: str) -> str:
        body = {"model": model, "messages": [{"role": "user", "content": CAPITAL}]}
        answer = self.client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["choices"][0]["message"]["content"])

    @property
    def states(self) -> dict[str, str]:
        return dict(self.client.get("/health").json()["models"])


@contextmanager
def serving(several: Place, *options: str) -> Iterator[Server]:
    process = several.start("serve", "--port", "0", *options)
    try:
        with httpx.Client(base_url=address_of(process), timeout=120) as client:
            yield Server(client)
    finally:
        process.terminate()
        process.communicate(timeout=60)


def test_what_several_models_share_is_in_the_pack_once(pack: Path) -> None:
    document = json.loads(satchel("inspect", pack, "--json").stdout)
    entries = {entry["name"]: entry for entry in document["entries"]}
    assert {name for name, entry in entries.items() if entry["kind"] == "model"} == {
        "model",
        "model-2",
    }
    for name in ("adapter", "adapter-2"):
        assert entries[name]["requires"] == [entries["model-2"]["sha256"]]


def test_in_the_terminal(several: Place) -> None:
    assert "Paris" in several.run("ask", CAPITAL).stdout
    assert "Paris" in several.run("ask", "--model", "smol", CAPITAL).stdout
    answers = [
        several.run("ask", "--model", name, "abc").stdout
        for name in ("tiny", "tiny:blue", "tiny:red", "tiny:base")
    ]
    assert answers[0] == answers[1]
    assert len(set(answers)) == 3
    unknown = several.run("ask", "--model", "tiny:green", "x", check=False)
    assert unknown.returncode == 3
    assert "no model 'tiny:green'" in unknown.stderr
    assert "Known: smol, terse, tiny, tiny:base, tiny:red, tiny:blue" in unknown.stderr


def test_requests_choose(several: Place) -> None:
    with serving(several) as server:
        assert "Paris" in server.chat("default")
        assert "Paris" in server.chat("smol")
        assert server.chat("terse") == "The capital of"
        # Those two are one model with one engine; the other is loaded when it is asked for.
        assert server.states["terse"] == server.states["smol"] == "ready"
        assert server.states["tiny"] == "unloaded"
        texts = {
            name: server.ask(name, "abc") for name in ("tiny", "tiny:base", "tiny:red", "tiny:blue")
        }
        assert texts["tiny"] == texts["tiny:blue"]
        assert len(set(texts.values())) == 3
        chosen = server.ask("tiny", "abc", lora=[{"name": "red"}])
        assert chosen == texts["tiny:red"]
        assert server.states["tiny"] == "ready"
        listed = [model["id"] for model in server.client.get("/v1/models").json()["data"]]
        assert listed == ["smol", "terse", "tiny", "tiny:base", "tiny:red", "tiny:blue"]
        unknown = server.client.post("/v1/completions", json={"model": "huge", "prompt": "x"})
        assert unknown.status_code == 404
        assert "known: smol, terse, tiny, " in unknown.json()["error"]["message"]


def test_lazy(several: Place) -> None:
    with serving(several, "--lazy") as server:
        health = server.client.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "unloaded")
        assert set(server.states.values()) == {"unloaded"}
        assert "Paris" in server.chat("smol")
        assert server.client.get("/health").status_code == 200


def children(server: Server) -> Sequence[str]:
    return [name for name, state in server.states.items() if state == "ready"]


def test_unloads_when_idle_and_comes_back(several: Place) -> None:
    with serving(several, "--idle-unload", "1") as server:
        for _ in range(2):
            assert "Paris" in server.chat("smol")
            wait_for(lambda: not children(server), "unloading")
            assert server.client.get("/health").json()["status"] == "ok"
        loading = server.client.post("/api/generate", json={"model": "tiny", "keep_alive": -1})
        assert loading.json()["done_reason"] == "load"
        loaded = [model["name"] for model in server.client.get("/api/ps").json()["models"]]
        assert "tiny:latest" in loaded
        stop = server.client.post("/api/generate", json={"model": "tiny", "keep_alive": 0})
        assert stop.json()["done_reason"] == "unload"
        wait_for(lambda: not children(server), "unloading")


def test_what_does_not_fit_takes_turns(several: Place) -> None:
    # Room for one at a time, which the packer's estimate and the process itself need.
    with serving(several, "--memory", "1MB") as server:
        for _ in range(2):
            assert "Paris" in server.chat("smol")
            assert children(server) == ["smol", "terse"]
            assert server.ask("tiny", "abc")
            assert children(server) == ["tiny", "tiny:base", "tiny:red", "tiny:blue"]
