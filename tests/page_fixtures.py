"""What the tests of the web page share: a browser, a pack that serves, and the page of it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from browser import PATIENCE, Chat, Outside, Served, chat_in, launched, serving
from playwright.sync_api import Browser, BrowserContext, expect, sync_playwright
from running_pack import Place, place

__all__ = ["chat", "chromium", "context", "expect_titles", "exported", "pack", "server"]
DESKTOP = {"width": 1280, "height": 860}
LONG = "Write a long story about a fox that travels through every country of Europe."
SLOWLY = ("--temperature", "0", "--max-tokens", "1000", "--no-drafts")
"""So that a long answer, which repeats itself, takes some seconds: tests interrupt it."""


@pytest.fixture(scope="module")
def chromium() -> Iterator[tuple[Browser, Outside]]:
    with sync_playwright() as playwright, launched(playwright) as found:
        yield found


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return place(tmp_path_factory.mktemp("web"))


@pytest.fixture(scope="module")
def server(pack: Place) -> Iterator[Served]:
    with serving(pack, *SLOWLY) as served:
        yield served


@pytest.fixture
def context(chromium: tuple[Browser, Outside]) -> Iterator[BrowserContext]:
    """An empty browser. Whatever a test does, nothing may be asked of other machines."""
    browser, outside = chromium
    context = browser.new_context(viewport=DESKTOP, color_scheme="light", locale="en")  # type: ignore[arg-type]
    context.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    requests: list[str] = []
    context.on("request", lambda request: requests.append(request.url))
    yield context
    context.close()
    elsewhere = [
        url for url in requests if not url.startswith(("http://127.0.0.1:", "blob:", "data:"))
    ]
    assert elsewhere == []
    assert outside.asked == []


@pytest.fixture
def chat(context: BrowserContext, server: Served) -> Iterator[Chat]:
    """The page of the pack. Nothing may go wrong in it."""
    chat = chat_in(context)
    chat.open(server.address)
    yield chat
    assert chat.errors == []


def expect_titles(chat: Chat, *titles: str) -> None:
    """The list shows these conversations, now or in a moment."""
    expect(chat.page.locator("#list .entry")).to_have_text(list(titles))


def exported(nodes: dict[str, tuple[str, str]]) -> str:
    """An export with messages of these roles and parents."""
    made = {name: {"role": role, "parent": parent} for name, (role, parent) in nodes.items()}
    conversations = [{"nodes": made}]
    document = {"format": "satchel-conversations", "version": 1, "conversations": conversations}
    return json.dumps(document)
