"""Who may ask: the API key, the names this server goes by, and the pages that may use it.

A page in a browser can send requests to any address, this machine's own included. What gives
it away is its Origin, and where its name was pointed here on purpose (DNS rebinding), the Host.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime_stub.server import replies
from runtime_stub.server.page import PREFIX
from runtime_stub.server.replies import Problem, Shape, problem_reply

OPEN_PATHS = ("/health", "/")
"""Answered without a key: whatever watches over the server has none, and the page asks for it."""
ANY = "*"
_PREFLIGHT_SECONDS = "600"
_METHODS = "GET, HEAD, POST, DELETE"
_HEADER_NAMES = re.compile(r"[\w\-, ]{1,2000}", re.ASCII)
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


@dataclass(frozen=True)
class Rules:
    """What a request must show."""

    api_key: str | None = None
    hosts: tuple[str, ...] = ()
    """Names that the server is called by, beside "localhost" and addresses; "*" for any."""
    origins: tuple[str, ...] = ()
    """Origins of pages that may use it, such as "https://chat.example"; "*" for any."""
    check_host: bool = True
    """Not needed where no browser gets to, as behind a Unix socket."""


def own_names(host: str | None, *, exposed: bool) -> tuple[str, ...]:
    """Names of this machine for Rules.hosts: `host` as it was given to listen on, and where other
    machines can connect (`exposed`), what they know it as."""
    names = [host] if host else []
    if exposed:
        name = socket.gethostname()
        names += [name, f"{name}.local"]
    return tuple(names)


class Guard:
    """Lets only those requests through to `app` that keep the rules."""

    def __init__(self, app: ASGIApp, rules: Rules, shape_for: Callable[[str], Shape]) -> None:
        """`shape_for` tells from a path in which shape to refuse."""
        self._app = app
        self._shape_for = shape_for
        self._key = None if rules.api_key is None else _digest(rules.api_key)
        self._hosts = frozenset(host.lower().rstrip(".") for host in rules.hosts)
        self._origins = frozenset(_normal(origin) for origin in rules.origins)
        self._check_host = rules.check_host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        to: Send = send
        app: ASGIApp = self._app
        try:
            self._see_host(headers)
            if origin is not None and not _is_same(origin, headers):
                self._see_origin(origin)
                to = _telling(origin, send)
                if scope["method"] == "OPTIONS":
                    app = _preflight(headers)
            if app is self._app:
                self._see_key(scope["path"], headers)
                _see_framing(headers)
                _see_size(headers)
        except Problem as problem:
            app = problem_reply(problem, self._shape_for(scope["path"]))
        await app(scope, receive, to)

    def _see_host(self, headers: Headers) -> None:
        if not self._check_host or ANY in self._hosts:
            return
        # A request without one (HTTP/1.0) comes from no browser.
        for host in headers.getlist("host"):
            name = _name(host)
            local = name == "localhost" or name.endswith(".localhost")
            # Nobody can point an address somewhere else, as can be done with a name.
            if not (local or name in self._hosts or _is_address(name)):
                raise Problem(
                    403,
                    f"this server is not known as {host[:200]!r}; start it with --allow-host NAME "
                    "if it should be",
                    code="host_not_allowed",
                )

    def _see_origin(self, origin: str) -> None:
        if ANY not in self._origins and _normal(origin) not in self._origins:
            raise Problem(
                403,
                f"pages of {origin[:200]!r} may not use this server; start it with --allow-origin "
                "ORIGIN if they should",
                code="origin_not_allowed",
            )

    def _see_key(self, path: str, headers: Headers) -> None:
        if self._key is None or path in OPEN_PATHS or path.startswith(PREFIX):
            return
        scheme, _, token = headers.get("authorization", "").partition(" ")
        offered = [token.strip()] if scheme.lower() == "bearer" else []
        offered += headers.getlist("x-api-key")
        # All are compared, each in constant time, and as digests: not even the length shows.
        if not sum(hmac.compare_digest(self._key, _digest(key)) for key in offered):
            raise Problem(
                401,
                "the API key is wrong" if offered else "this server wants an API key",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _see_framing(headers: Headers) -> None:
    """Two ways to say where a body ends are how one request is made to look like two."""
    if "transfer-encoding" in headers and "content-length" in headers:
        raise Problem(
            400,
            "a request has either Content-Length or Transfer-Encoding",
            headers={"Connection": "close"},
        )


def _see_size(headers: Headers) -> None:
    length = headers.get("content-length", "")
    if length.isdigit() and (len(length) > 18 or int(length) > replies.MAX_BODY):
        raise replies.too_large()


def _telling(origin: str, send: Send) -> Send:
    """A `send` that lets pages of `origin` read the reply."""

    async def tell(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Expose-Headers"] = "Retry-After"
            headers.add_vary_header("Origin")
        await send(message)

    return tell


def _preflight(headers: Headers) -> Response:
    """What a browser wants to know before it sends a page's request."""
    reply = {
        "Access-Control-Allow-Methods": _METHODS,
        "Access-Control-Max-Age": _PREFLIGHT_SECONDS,
    }
    wanted = headers.get("access-control-request-headers", "")
    if _HEADER_NAMES.fullmatch(wanted):
        reply["Access-Control-Allow-Headers"] = wanted
    if headers.get("access-control-request-private-network") == "true":
        reply["Access-Control-Allow-Private-Network"] = "true"
    return Response(status_code=204, headers=reply)


def _is_same(origin: str, headers: Headers) -> bool:
    """Whether a page comes from this server: whatever the scheme, as a proxy may add TLS."""
    scheme, separator, place = _normal(origin).partition("://")
    host = headers.get("host", "").lower().removesuffix(_DEFAULT_PORTS.get(scheme, ""))
    return bool(separator) and place == host


def _normal(origin: str) -> str:
    """An origin in the one way to write it."""
    text = origin.strip().lower().rstrip("/")
    return text.removesuffix(_DEFAULT_PORTS.get(text.partition("://")[0], ""))


def _name(host: str) -> str:
    """The name in a Host header, without its port."""
    found = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::\d*)?", host.strip())
    return found.group(1).lower().rstrip(".") if found else ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
