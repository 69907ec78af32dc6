"""The OpenAPI 3.1 document, made from the types that requests and replies really have."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from runtime_stub import __version__
from runtime_stub.server.face import Face, Operation

_PARAMETER = re.compile(r"{(\w+)(?::\w+)?}")
_REFERENCE = "#/components/schemas/{name}"


def describe(faces: Sequence[Face]) -> dict[str, Any]:
    """The document for all operations of `faces`."""
    types = [
        kind
        for face in faces
        for kind in (face.error, *_types(face.operations))
        if kind is not None
    ]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    schema_of = dict(zip(map(id, types), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for face in faces:
        for operation in face.operations:
            path = paths.setdefault(_PARAMETER.sub(r"{\1}", operation.path), {})
            path[operation.method.lower()] = _operation(operation, face, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Satchel",
            "version": __version__,
            "summary": "A language model in one file, over HTTP.",
        },
        "tags": [{"name": face.name} for face in faces],
        "security": [{}, {"bearer": []}, {"key": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _types(operations: Sequence[Operation]) -> list[Any]:
    return [kind for operation in operations for kind in (operation.request, operation.response)]


def _operation(operation: Operation, face: Face, schema_of: dict[int, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {operation.media: {}}
    if operation.response is not None:
        content = {"application/json": {"schema": schema_of[id(operation.response)]}}
    if operation.stream is not None:
        content.setdefault(operation.stream, {})
    made: dict[str, Any] = {
        "operationId": "_".join(re.findall(r"\w+", f"{operation.method.lower()} {operation.path}")),
        "summary": operation.summary,
        "tags": [face.name],
        "responses": {
            str(operation.status): {"description": "The answer", "content": content},
            "default": {
                "description": "What went wrong",
                "content": {"application/json": {"schema": schema_of[id(face.error)]}},
            },
        },
    }
    names = _PARAMETER.findall(operation.path)
    if names:
        made["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in names
        ]
    if operation.request is not None:
        made["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema_of[id(operation.request)]}},
        }
    return made
