"""The web page as it is served; what it does in a browser is in test_web_page.py."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import gzip
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from face_fixtures import scripted, state_of

from runtime_stub.server.app import make_app
from runtime_stub.server.guard import Rules
from runtime_stub.server.page import INDEX, Page

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8", "Accept-Encoding": "gzip, br"}
FILES = {"index.html": "<!doctype html><title>Page</title>", "app.js": "start();" * 50}
TYPES = {"html": "text/html; charset=utf-8", "js": "text/javascript; charset=utf-8"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "web"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    index = {name: {"type": TYPES[name.split(".")[1]], "tag": f"tag-{name}"} for name in FILES}
    (folder / INDEX).write_text(json.dumps(index))
    return folder


def get(
    folder: Path,
    path: str,
    headers: dict[str, str] | None = None,
    *,
    rules: Rules | None = None,
    name: str = "Clara",
    **face: Any,
) -> httpx.Response:
    async def ask() -> httpx.Response:
        state = dataclasses.replace(state_of(scripted()), page=Page(folder, name, face))
        transport = httpx.ASGITransport(make_app(state, rules=rules))
        async with httpx.AsyncClient(
            transport=transport, base_url="http://localhost", headers={"Accept-Encoding": ""}
        ) as client:
            return await client.get(path, headers=headers)

    return asyncio.run(ask())


def test_browsers_get_the_page(folder: Path) -> None:
    response = get(folder, "/", BROWSER)
    assert response.text == FILES["index.html"]
    assert response.headers["content-type"] == TYPES["html"]
    assert response.headers["content-encoding"] == "gzip"


@pytest.mark.parametrize("accept", ["*/*", "application/json", ""])
def test_programs_get_words(folder: Path, accept: str) -> None:
    response = get(folder, "/", {"Accept": accept})
    assert response.text.startswith("pack is running.")


def test_without_a_page_browsers_get_words(tmp_path: Path) -> None:
    assert get(tmp_path, "/", BROWSER).text.startswith("pack is running.")
    assert get(tmp_path, "/web/app.js").status_code == 404


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
def test_files(folder: Path, encoding: str) -> None:
    response = get(folder, "/web/app.js", {"Accept-Encoding": encoding})
    assert response.text == FILES["app.js"]
    assert response.headers.get("content-encoding", "identity") == encoding
    assert response.headers["content-type"] == TYPES["js"]


def test_what_the_browser_has_is_not_sent_again(folder: Path) -> None:
    first = get(folder, "/web/app.js")
    tag = first.headers["etag"]
    again = get(folder, "/web/app.js", {"If-None-Match": tag})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == tag
    assert get(folder, "/web/app.js", {"If-None-Match": '"other"'}).status_code == 200


def test_strict_headers(folder: Path) -> None:
    for path in ("/", "/web/app.js"):
        headers = get(folder, path, BROWSER).headers
        policy = dict(
            rule.strip().split(" ", 1) for rule in headers["content-security-policy"].split(";")
        )
        assert policy["default-src"] == "'none'"
        for kind in ("script-src", "style-src", "connect-src"):
            assert policy[kind] == "'self'"
        assert "unsafe" not in headers["content-security-policy"]
        assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["require-trusted-types-for"] == "'script'"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    "path",
    [
        "/web/",
        "/web/other.js",
        "/web/app.js.gz",
        f"/web/{INDEX}",
        "/web/../web/app.js.gz",
        "/web/%2e%2e/index.json",
        "/web//etc/passwd",
    ],
)
def test_nothing_else(folder: Path, path: str) -> None:
    response = get(folder, path)
    assert response.status_code == 404
    assert "there is nothing at" in response.json()["error"]["message"]


def test_files_that_are_gone(folder: Path) -> None:
    (folder / "app.js.gz").unlink()
    response = get(folder, "/web/app.js")
    assert response.status_code == 503
    assert "start the pack again" in response.json()["error"]["message"]


def test_face(folder: Path) -> None:
    response = get(folder, "/web/face.json", greeting="Hi!", starters=["One?"], accent="#123456")
    assert response.json() == {
        "name": "Clara",
        "accent": "#123456",
        "greeting": "Hi!",
        "starters": ["One?"],
    }
    plain = get(folder, "/web/face.json").json()
    assert (plain["greeting"], plain["starters"]) == ("", [])
    assert plain["accent"].startswith("#")


@pytest.mark.parametrize(
    ("name", "face", "words"),
    [
        ("Clara", {}, ">C<"),
        ("<b>", {}, ">&lt;<"),
        ("Clara", {"icon": "🩺"}, ">🩺<"),
        ("Clara", {"icon": "&"}, ">&amp;<"),
        ("Clara", {"accent": "#ffee00"}, 'fill="#000"'),
        ("Clara", {"accent": "#102040"}, 'fill="#fff"'),
    ],
)
def test_icon_of_characters(folder: Path, name: str, face: dict[str, Any], words: str) -> None:
    response = get(folder, "/web/icon", name=name, **face)
    assert response.headers["content-type"] == "image/svg+xml"
    assert words in response.text


def test_picture(folder: Path) -> None:
    picture = b"\x89PNG\r\n\x1a\n..."
    url = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    response = get(folder, "/web/icon", icon=url)
    assert (response.content, response.headers["content-type"]) == (picture, "image/png")
    assert "script-src" not in response.headers["content-security-policy"]


def test_only_the_page_goes_without_a_key(folder: Path) -> None:
    rules = Rules(api_key="s3cret")
    for path in ("/", "/web/app.js", "/web/face.json", "/web/icon"):
        assert get(folder, path, BROWSER, rules=rules).status_code == 200
    for path in ("/props", "/v1/models", "/web", "/props?/web/"):
        assert get(folder, path, BROWSER, rules=rules).status_code == 401


def test_strangers_do_not_get_it(folder: Path) -> None:
    response = get(folder, "/", {**BROWSER, "Host": "evil.example"}, rules=Rules())
    assert response.status_code == 403


def test_defaults_of_a_model(folder: Path) -> None:
    settings = get(folder, "/props?model=pack").json()["default_generation_settings"]
    assert (settings["system"], settings["max_tokens"]) == ("Be brief.", 100)
    assert settings["params"]["temperature"] == 0.25
    assert get(folder, "/props").json()["model_alias"] == "pack"
    assert get(folder, "/props?model=other").status_code == 404
