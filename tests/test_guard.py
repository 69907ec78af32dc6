from __future__ import annotations

import asyncio
import socket
from typing import Any

import httpx
import pytest
from face_fixtures import scripted, state_of

from runtime_stub.server import replies
from runtime_stub.server.app import make_app
from runtime_stub.server.guard import Rules, own_names

MODELS = "/v1/models"


def ask(
    rules: Rules, headers: dict[str, str] | None = None, method: str = "GET", path: str = MODELS,
    **more: Any,
) -> httpx.Response:  # fmt: skip
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(make_app(state_of(scripted()), rules=rules))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:80") as client:
            return await client.request(method, path, headers=headers, **more)

    return asyncio.run(send())


# The key.

KEYED = Rules(api_key="s3cret")


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer s3cret"},
        {"authorization": "bearer  s3cret "},
        {"x-api-key": "s3cret"},
        {"x-api-key": "s3cret", "Authorization": "Bearer other"},
    ],
)
def test_right_key(headers: dict[str, str]) -> None:
    assert ask(KEYED, headers).status_code == 200


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({}, "wants an API key"),
        ({"Authorization": "Basic s3cret"}, "wants an API key"),
        ({"Authorization": "Bearer"}, "wrong"),
        ({"Authorization": "Bearer s3cre"}, "wrong"),
        ({"Authorization": "Bearer S3CRET"}, "wrong"),
        ({"x-api-key": "s3cret\u00e4"}, "wrong"),
        ({"x-api-key": ""}, "wrong"),
    ],
)
def test_wrong_key(headers: dict[str, str], message: str) -> None:
    encoded = {name: value.encode("latin-1") for name, value in headers.items()}
    response = ask(KEYED, encoded)  # type: ignore[arg-type]
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
    assert message in error["message"]


@pytest.mark.parametrize(
    "path", ["/metrics", "/openapi.json", "/v1/nothing", "/health/", "/health//"]
)
def test_everything_wants_the_key(path: str) -> None:
    assert ask(KEYED, path=path).status_code == 401


def test_health_is_open() -> None:
    assert ask(KEYED, path="/health").status_code == 200


@pytest.mark.parametrize(("path", "shape"), [("/api/tags", str), ("/v1/messages", dict)])
def test_refused_in_the_shape_of_the_face(path: str, shape: type) -> None:
    response = ask(KEYED, path=path, method="POST")
    assert response.status_code == 401
    assert isinstance(response.json()["error"], shape)


# The Host.


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "LOCALHOST:8080", "localhost.", "app.localhost", "127.0.0.1", "127.9.9.9:1",
        "[::1]:8080", "192.168.1.5:8080", "box", "box.example:443",
    ],
)  # fmt: skip
def test_known_host(host: str) -> None:
    assert ask(Rules(hosts=("box", "Box.Example.")), {"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example",
        "", ":80", "box.evil", "localhost:80:80", "[::1", "[::1]x", "1.2.3", "localhost@evil",
    ],
)  # fmt: skip
def test_unknown_host(host: str) -> None:
    response = ask(Rules(hosts=("box",)), {"Host": host})
    assert response.status_code == 403
    assert response.json()["error"]["code"] == "host_not_allowed"
    assert "--allow-host" in response.json()["error"]["message"]


def test_hosts_that_are_not_looked_at() -> None:
    assert ask(Rules(hosts=("*",)), {"Host": "evil.example"}).status_code == 200
    assert ask(Rules(check_host=False), {"Host": "evil.example"}).status_code == 200


def test_own_names() -> None:
    assert own_names("localhost", exposed=False) == ("localhost",)
    assert own_names(None, exposed=False) == ()
    name = socket.gethostname()
    assert own_names("0.0.0.0", exposed=True) == ("0.0.0.0", name, f"{name}.local")


# The Origin.


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://localhost", "localhost"),
        ("http://localhost:80", "localhost"),
        ("http://localhost", "localhost:80"),
        ("http://127.0.0.1:8080", "127.0.0.1:8080"),
        ("https://LOCALHOST:443", "localhost"),
        ("http://[::1]:8080", "[::1]:8080"),
    ],
)
def test_own_pages(origin: str, host: str) -> None:
    response = ask(Rules(), {"Host": host, "Origin": origin})
    assert response.status_code == 200
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost:3000",
        "https://evil.example",
        "null",
        "",
        "localhost",
        "http://localhost.evil",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_strange_pages(origin: str, method: str) -> None:
    preflight = {"Access-Control-Request-Method": "POST"} if method == "OPTIONS" else {}
    response = ask(Rules(), {"Origin": origin, **preflight}, method)
    assert response.status_code == 403
    assert "access-control-allow-origin" not in response.headers
    assert response.json()["error"]["code"] == "origin_not_allowed"


@pytest.mark.parametrize("allowed", ["https://chat.example", "https://Chat.Example:443/", "*"])
def test_allowed_pages(allowed: str) -> None:
    rules = Rules(origins=(allowed,), api_key="s3cret")
    headers = {"Origin": "https://chat.example", "x-api-key": "s3cret"}
    response = ask(rules, headers)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == "https://chat.example"
    assert response.headers["vary"] == "Origin"
    assert "access-control-allow-credentials" not in response.headers
    # They may read why they are refused, too.
    response = ask(rules, {"Origin": "https://chat.example"})
    assert response.status_code == 401
    assert response.headers["access-control-allow-origin"] == "https://chat.example"


def test_preflight() -> None:
    """Browsers send no key with it."""
    rules = Rules(origins=("https://chat.example",), api_key="s3cret")
    headers = {
        "Origin": "https://chat.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type",
        "Access-Control-Request-Private-Network": "true",
    }
    response = ask(rules, headers, "OPTIONS", "/v1/chat/completions")
    assert (response.status_code, response.content) == (204, b"")
    assert response.headers["access-control-allow-origin"] == "https://chat.example"
    assert "POST" in response.headers["access-control-allow-methods"]
    assert response.headers["access-control-allow-headers"] == "authorization, content-type"
    assert response.headers["access-control-allow-private-network"] == "true"
    strange = {**headers, "Access-Control-Request-Headers": "x\x7f"}
    strange.pop("Access-Control-Request-Private-Network")
    response = ask(rules, strange, "OPTIONS")
    assert "access-control-allow-headers" not in response.headers
    assert "access-control-allow-private-network" not in response.headers


# Size.


@pytest.mark.parametrize("length", [str((16 << 20) + 1), "9" * 30])
def test_too_large(length: str) -> None:
    response = ask(Rules(), {"Content-Length": length}, "POST", "/v1/completions")
    assert response.status_code == 413
    assert response.headers["connection"] == "close"


def test_size_is_also_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "MAX_BODY", 10)

    async def pieces() -> Any:
        for _ in range(20):
            yield b" "

    response = ask(Rules(), None, "POST", "/v1/completions", content=pieces())
    assert response.status_code == 413


# Framing.


def test_two_ways_to_say_where_a_body_ends() -> None:
    """As a proxy in front might believe the one, and this server the other."""
    both = {"Transfer-Encoding": "chunked", "Content-Length": "5"}
    response = ask(Rules(), both, "POST", "/v1/chat/completions", content=b"hello")
    assert response.status_code == 400
    assert "Content-Length or Transfer-Encoding" in response.text
    assert response.headers["connection"] == "close"
