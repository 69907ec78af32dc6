"""Adapters and several models, as clients of each face choose them."""

from __future__ import annotations

from typing import Any

import pytest
from engine_fixtures import NO_USAGE, ScriptedEngine
from face_fixtures import scripted, send_to, state_with_adapters

from runtime_stub.engine.messages import (
    Embeddings,
    EmbedRequest,
    Event,
    Finished,
    PromptRead,
    Request,
    RerankRequest,
    Scores,
    Text,
)

HELLO: list[Event | float] = [PromptRead(1, 0), Text("Hi"), Finished("stop", NO_USAGE)]
MESSAGES = [{"role": "user", "content": "Hi"}]


def chosen(path: str, body: dict[str, Any]) -> Any:
    """The adapters that the engine is told of."""
    engine = scripted(HELLO)
    response = send_to(state_with_adapters(engine), "POST", path, json=body)
    assert response.status_code == 200, response.text
    request = engine.requests[0]
    assert isinstance(request, Request)
    return request.adapters


FACES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": MESSAGES}),
    ("/v1/completions", {"prompt": "Hi"}),
    ("/v1/responses", {"input": "Hi"}),
    ("/v1/messages", {"messages": MESSAGES, "max_tokens": 5}),
    ("/api/chat", {"messages": MESSAGES, "stream": False}),
    ("/api/generate", {"prompt": "Hi", "stream": False}),
]


@pytest.mark.parametrize(("path", "body"), FACES, ids=[path for path, _ in FACES])
@pytest.mark.parametrize(
    ("model", "adapters"),
    [("pack", None), ("pack:base", ()), ("pack:red", (("red", None),))],
)
def test_by_the_name_of_the_model(
    path: str, body: dict[str, Any], model: str, adapters: object
) -> None:
    assert chosen(path, {**body, "model": model}) == adapters


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": "Hi"}),
        ("/v1/rerank", {"query": "Hi", "documents": ["Ho"]}),
        ("/api/embed", {"input": "Hi"}),
        ("/api/embeddings", {"prompt": "Hi"}),
    ],
)
@pytest.mark.parametrize(
    ("model", "adapters"),
    [("pack", None), ("pack:base", ()), ("pack:red", (("red", None),))],
)
def test_vectors_and_scores_by_the_name_of_the_model(
    path: str, body: dict[str, Any], model: str, adapters: object
) -> None:
    engine = scripted([Scores((1.0,), 1) if "rerank" in path else Embeddings(((1.0,),), 1)])
    state = state_with_adapters(engine)
    response = send_to(state, "POST", path, json={**body, "model": model})
    assert response.status_code == 200, response.text
    (request,) = engine.requests
    assert isinstance(request, (EmbedRequest, RerankRequest))
    assert request.adapters == adapters


@pytest.mark.parametrize(("path", "body"), FACES[:2], ids=["chat", "completions"])
@pytest.mark.parametrize(
    ("lora", "adapters"),
    [
        ([], ()),
        ([{"name": "red"}], (("red", None),)),
        ([{"id": 1, "scale": 0.25}, {"id": 0}], (("blue", 0.25), ("red", None))),
    ],
)
@pytest.mark.parametrize("model", ["pack", "pack:red"])
def test_by_a_field(
    path: str, body: dict[str, Any], lora: object, adapters: object, model: str
) -> None:
    assert chosen(path, {**body, "model": model, "lora": lora}) == adapters


@pytest.mark.parametrize(
    ("lora", "words"),
    [
        ([{}], "lora[0]: either a name or an id"),
        ([{"name": "red", "id": 0}], "either a name or an id"),
        ([{"name": "red"}, {"name": "green"}], "lora[1]: there is no adapter 'green'; known: red"),
        ([{"id": 2}], "there is no adapter 'number 2'"),
        ([{"id": -1}], "there is no adapter"),
        ([{"id": 0, "scale": 1e9}], "lora[0].scale"),
        ([{"id": 0, "size": 1}], "lora[0]"),
        ("red", "lora: "),
    ],
)
def test_refused(lora: object, words: str) -> None:
    engine = scripted(HELLO)
    body = {"messages": MESSAGES, "lora": lora}
    response = send_to(state_with_adapters(engine), "POST", "/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert words in response.json()["error"]["message"]
    assert engine.requests == []


def get(path: str) -> Any:
    return send_to(state_with_adapters(ScriptedEngine()), "GET", path).json()


def test_listed() -> None:
    names = ["pack", "pack:base", "pack:red"]
    assert [model["id"] for model in get("/v1/models")["data"]] == names
    assert [model["name"] for model in get("/api/tags")["models"]] == ["pack:latest", *names[1:]]
    assert get("/health")["models"] == dict.fromkeys(names, "ready")
    assert get("/v1/models/pack:red")["id"] == "pack:red"


def test_unknown_model_lists_those_there_are() -> None:
    body = {"messages": MESSAGES, "model": "pack:green"}
    state = state_with_adapters(ScriptedEngine())
    response = send_to(state, "POST", "/v1/chat/completions", json=body)
    assert response.status_code == 404
    assert "known: pack, pack:base, pack:red" in response.json()["error"]["message"]


def test_adapters_as_llama_server_lists_them() -> None:
    assert get("/lora-adapters") == [
        {"id": 0, "name": "red", "scale": 0.0},
        {"id": 1, "name": "blue", "scale": 1.0},
    ]
