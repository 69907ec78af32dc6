from __future__ import annotations

import base64
import struct
from typing import Any

import pytest
from face_fixtures import scripted, send

from runtime_stub.engine.messages import (
    Embeddings,
    EmbedRequest,
    Failed,
    RerankRequest,
    Scores,
)

FOUND = Embeddings(((0.5, -1.0), (0.25, 2.0)), 7)


@pytest.mark.parametrize("kind", [None, "float"])
def test_embeddings(kind: str | None) -> None:
    engine = scripted([FOUND])
    body = {"input": ["a", "b"], "encoding_format": kind, "dimensions": 2, "user": "me"}
    response = send(engine, "POST", "/v1/embeddings", json=body)
    assert engine.requests == [EmbedRequest(("a", "b"))]
    assert response.json() == {
        "object": "list",
        "model": "pack",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.5, -1.0]},
            {"object": "embedding", "index": 1, "embedding": [0.25, 2.0]},
        ],
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }


def test_base64() -> None:
    engine = scripted([Embeddings(((0.5, -1.0),), 7)])
    body = {"input": "a", "encoding_format": "base64"}
    (item,) = send(engine, "POST", "/v1/embeddings", json=body).json()["data"]
    assert struct.unpack("<2f", base64.b64decode(item["embedding"])) == (0.5, -1.0)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": [1, 2]}, "input"),
        ({"input": [[1]]}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": 1}, "input"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"dimensions": 3}, "dimensions"),
        ({"truncate": True}, "truncate"),
    ],
)
def test_wrong_field_is_named(fields: dict[str, Any], param: str) -> None:
    body = {"input": "a", **fields}
    response = send(scripted([FOUND]), "POST", "/v1/embeddings", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize("given", [[1, 2], [[1, 2], [3]], ["a", 1]])
def test_whoever_sends_tokens_is_told_what_to_do(given: object) -> None:
    response = send(scripted(), "POST", "/v1/embeddings", json={"input": given})
    message = response.json()["error"]["message"]
    assert message.startswith("input: ")
    assert "send texts" in message
    assert "check_embedding_ctx_length=False" in message


def test_model_without_embeddings() -> None:
    engine = scripted([Failed("unsupported", "this model makes no embeddings")])
    response = send(engine, "POST", "/v1/embeddings", json={"input": "a"})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "unsupported"


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank"])
def test_rerank(path: str) -> None:
    engine = scripted([Scores((0.1, 0.9, 0.5), 7)])
    body = {"query": "q", "documents": ["a", {"text": "b"}, "c"], "top_n": 2}
    response = send(engine, "POST", path, json=body)
    asked = RerankRequest("q", ("a", "b", "c"))
    assert engine.requests == [asked]
    assert response.json() == {
        "object": "list",
        "model": "pack",
        "results": [
            {"index": 1, "relevance_score": 0.9},
            {"index": 2, "relevance_score": 0.5},
        ],
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }


def test_rerank_returns_documents() -> None:
    body = {"query": "q", "documents": ["a"], "return_documents": True}
    document = send(scripted([Scores((0.1,), 1)]), "POST", "/rerank", json=body).json()
    assert document["results"][0]["document"] == {"text": "a"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"documents": []}, "documents"),
        ({"documents": [1]}, "documents[0]"),
        ({"query": 1}, "query"),
        ({"top_n": 0}, "top_n"),
    ],
)
def test_rerank_refuses(fields: dict[str, Any], param: str) -> None:
    body = {"query": "q", "documents": ["a"], **fields}
    response = send(scripted(), "POST", "/v1/rerank", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
