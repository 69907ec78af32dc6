"""The way in and out of HTTP that all faces share: bodies, replies, and what went wrong.

A handler raises `Problem`; `handled` makes a reply of it in the shape of its face.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from runtime_stub.engine.messages import Failed

MAX_BODY = 16 << 20
"""Largest request body, in bytes."""
BUSY_SECONDS = 2
"""When clients may try again after being told that too many wait, or that it took too long."""
CLIENT_GONE = 499
"""What is noted down for a client that did not wait for its answer; nobody reads it."""

T = TypeVar("T")
Handler = Callable[[HttpRequest], Awaitable[Response]]


class Problem(Exception):  # noqa: N818  (it is a reply, raised)
    """A request that is answered with an error."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """`param` is the path of the field that is wrong, such as "messages[0].role"; `code` is
        a word for programs; `status` is what HTTP calls it."""
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = dict(headers or {})


Shape = Callable[[Problem], object]
"""Makes the document that a face answers a problem with."""


class ClientGoneError(Exception):
    """The client closed its connection; nobody reads the answer."""


def json(document: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON reply."""
    body = msgspec.json.encode(document)
    return Response(body, status, dict(headers or {}), media_type="application/json")


def problem_reply(problem: Problem, shape: Shape) -> Response:
    """The reply to a request that failed."""
    return json(shape(problem), problem.status, problem.headers)


def sse(document: object, event: str | None = None) -> bytes:
    """One server-sent event, with a type if it has one."""
    data = b"data: " + msgspec.json.encode(document) + b"\n\n"
    return data if event is None else b"event: " + event.encode() + b"\n" + data


class Mould:
    """A piece of a stream that is sent many times, with another text in one place."""

    def __init__(self, make: Callable[[str], bytes]) -> None:
        """`make` makes the piece for a text. What it puts behind that must not be chosen by
        anybody outside."""
        place = "\0"
        self._before, _, self._after = make(place).rpartition(msgspec.json.encode(place))

    def fill(self, text: str) -> bytes:
        """The piece for `text`."""
        return self._before + msgspec.json.encode(text) + self._after


def ndjson(document: object) -> bytes:
    """One line of a stream of JSON documents."""
    return msgspec.json.encode(document) + b"\n"


def handled(handler: Handler, shape: Shape) -> Handler:
    """`handler`, with its problems answered in `shape`."""

    async def endpoint(http: HttpRequest) -> Response:
        try:
            return await handler(http)
        except Problem as problem:
            return problem_reply(problem, shape)
        except ClientGoneError:
            return Response(status_code=CLIENT_GONE)

    return endpoint


async def read_body(http: HttpRequest) -> bytes:
    """The whole body. Raises Problem (413) for more than MAX_BODY, ClientGoneError."""
    body = bytearray()
    try:
        async for piece in http.stream():
            body += piece
            if len(body) > MAX_BODY:
                raise too_large()
    except ClientDisconnect:
        raise ClientGoneError from None
    return bytes(body)


def too_large() -> Problem:
    """For a request whose body is longer than MAX_BODY."""
    return Problem(
        413, f"the request is larger than {MAX_BODY >> 20} MB", headers={"Connection": "close"}
    )


def decode(body: bytes, kind: type[T]) -> T:
    """`body` as JSON of a type. Raises Problem (400) that names the field."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise _unreadable(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        # An empty body or half of one is told of as "truncated" alone.
        raise Problem(400, f"the body is not valid JSON: {error}") from None
    except RecursionError:
        raise Problem(400, "the request is nested too deeply") from None


def convert(value: object, kind: Any, place: str) -> Any:
    """Plain data, found at `place` of a request, as a type. Raises Problem (400) as `decode`."""
    try:
        return msgspec.convert(value, type=kind)
    except msgspec.ValidationError as error:
        problem = _unreadable(str(error))
        rest = problem.param or ""
        param = place + (rest if rest.startswith("[") else f".{rest}" if rest else "")
        raise Problem(400, f"{param}: {_PLACE.sub('', str(error))}", param) from None


async def read(http: HttpRequest, kind: type[T]) -> T:
    """The body as JSON of a type. Raises as `read_body` and `decode` do."""
    return decode(await read_body(http), kind)


_PLACE = re.compile(r" - at `(?:key in )?\$\.?(.*)`\Z", re.DOTALL)
_FIELD = re.compile(r"(?:contains unknown|missing required) field `([^`]*)`")


def _unreadable(message: str) -> Problem:
    place, field = _PLACE.search(message), _FIELD.search(message)
    names = [found.group(1) for found in (place, field) if found is not None and found.group(1)]
    param = ".".join(names) or None
    text = _PLACE.sub("", message)
    if param is not None and field is None:
        text = f"{param}: {text}"
    elif place is not None:
        text = f"{place.group(1)}: {text}"
    code = "unknown_parameter" if "unknown field" in message else None
    return Problem(400, text, param, code)


_STATUS = {"prompt": 400, "too-long": 400, "unsupported": 400}
_CODES = {
    "too-long": "context_length_exceeded",
    "unsupported": "unsupported",
    "busy": "busy",
    "timeout": "timeout",
}
_LATER = ("busy", "timeout")
"""What is worth asking again as it is, a little later."""


def problem_of(failed: Failed) -> Problem:
    """What to answer a request with that the engine could not answer.

    What this model can't do is the request's mistake (400): clients repeat 5xx.
    """
    message = f"{failed.message}. {failed.hint}" if failed.hint else failed.message
    headers = {"Retry-After": str(BUSY_SECONDS)} if failed.kind in _LATER else None
    return Problem(_STATUS.get(failed.kind, 503), message, None, _CODES.get(failed.kind), headers)


def plain(value: object) -> Any:
    """A structure of a request as plain data, as the engine takes it."""
    return msgspec.to_builtins(value)
