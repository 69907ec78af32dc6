"""What a face is: routes with the types that go in and out, and a shape for errors.

One table of operations makes the routes, the metrics' labels and the OpenAPI document. A
module with a face has a function `face(state: State) -> Face`, and `app` calls it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from runtime_stub.server.replies import Handler, Shape


@dataclass(frozen=True)
class Operation:
    """One thing that can be asked of the server over HTTP."""

    method: str
    """"GET", "POST" or another."""
    path: str
    """As Starlette writes it: parameters in braces, "{name}" or "{name:path}"."""
    handler: Handler
    """May raise Problem and ClientGoneError."""
    summary: str
    """One line for people."""
    request: Any = None
    """Type of the JSON body, None for no body."""
    response: Any = None
    """Type of the JSON reply, None for one that is not JSON."""
    stream: str | None = None
    """Media type of the reply when it is streamed, if it can be."""
    status: int = 200
    media: str = "text/plain"
    """Media type of a reply that is not JSON; may be a range, such as "image/*"."""


@dataclass(frozen=True)
class Face:
    """One interface of the server."""

    name: str
    operations: tuple[Operation, ...]
    shape: Shape
    """How it tells problems."""
    error: Any
    """The type that `shape` makes."""
    prefixes: tuple[str, ...] = ()
    """Unknown paths that start with one of these are answered in this face's shape."""
