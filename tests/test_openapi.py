from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from face_fixtures import scripted, send, state_of

from runtime_stub.server.app import faces_of

DOCUMENT = send(scripted(), "GET", "/openapi.json").json()


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            yield method, path, operation


def walk(value: Any) -> Iterator[dict[str, Any]]:
    """All objects within."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from walk(item)


def test_head() -> None:
    assert DOCUMENT["openapi"] == "3.1.0"
    assert DOCUMENT["info"]["title"]
    assert DOCUMENT["info"]["version"]


def test_every_route_of_every_face() -> None:
    told = {(method, path) for method, path, _ in operations()}
    served = {
        (operation.method.lower(), re.sub(r":\w+}", "}", operation.path))
        for face in faces_of(state_of(scripted()))
        for operation in face.operations
    }
    assert told == served
    assert ("post", "/v1/chat/completions") in told
    assert ("get", "/v1/models/{id}") in told
    assert ("post", "/v1/messages") in told
    assert ("post", "/api/chat") in told


def test_no_two_faces_share_a_route() -> None:
    routes = [
        (operation.method, operation.path)
        for face in faces_of(state_of(scripted()))
        for operation in face.operations
    ]
    assert len(set(routes)) == len(routes)


def test_references_lead_somewhere() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    for item in walk(DOCUMENT):
        reference = item.get("$ref")
        if isinstance(reference, str):
            assert reference.removeprefix("#/components/schemas/") in schemas, reference
    assert all(re.fullmatch(r"[\w.\-]+", name) for name in schemas)


def test_operations() -> None:
    seen = set()
    tags = {tag["name"] for tag in DOCUMENT["tags"]}
    for method, path, operation in operations():
        assert operation["summary"], path
        assert set(operation["tags"]) <= tags
        seen.add(operation["operationId"])
        names = {parameter["name"] for parameter in operation.get("parameters", [])}
        assert names == set(re.findall(r"{(\w+)}", path))
        assert ("requestBody" in operation) <= (method in ("post", "delete", "put"))
        assert "default" in operation["responses"]
        for reply in operation["responses"].values():
            assert reply["description"]
    assert len(seen) == len(list(operations()))


def test_types_are_the_real_ones() -> None:
    chat = DOCUMENT["paths"]["/v1/chat/completions"]["post"]
    body = chat["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    schema = DOCUMENT["components"]["schemas"][body.rpartition("/")[2]]
    assert schema["required"] == ["messages"]
    assert schema["additionalProperties"] is False
    assert {"temperature", "tools", "grammar", "mirostat"} <= set(schema["properties"])
    assert set(chat["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
