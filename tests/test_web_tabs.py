"""No conversation is lost: with several tabs, in bad moments, and where a browser fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from browser import Chat, Served, answer_with, chat_in, serving, stream_of
from page_fixtures import (
    LONG,
    chat,
    chromium,
    context,
    expect_titles,
    exported,
    pack,
    server,
)
from playwright.sync_api import BrowserContext, expect
from running_pack import QUESTION, Place

__all__ = ["chat", "chromium", "context", "pack", "server"]
pytestmark = [pytest.mark.pack, pytest.mark.browser]

KEPT = """new Promise((resolve) => {
    const opening = indexedDB.open("satchel:SmolLM2");
    opening.onsuccess = () => {
        const transaction = opening.result.transaction("conversations");
        const asked = transaction.objectStore("conversations").getAll();
        asked.onsuccess = () => { opening.result.close(); resolve(asked.result); };
    };
})"""
"""All conversations that are kept."""
NO_STORAGE = """for (const name of ["localStorage", "sessionStorage", "indexedDB"])
    Object.defineProperty(window, name, {
        get() { throw new DOMException("Access is denied for this document.", "SecurityError"); },
    });"""
"""As browsers have it that may keep nothing of a site."""


@pytest.fixture
def other(context: BrowserContext, server: Served, chat: Chat) -> Any:
    """A second tab. Nothing may go wrong in it, either."""
    other = chat_in(context)
    other.open(server.address)
    yield other
    assert other.errors == []


def kept_words(chat: Chat) -> list[str]:
    """What the messages say that are kept, of all conversations."""
    return [
        node["content"]
        for conversation in chat.page.evaluate(KEPT)
        for node in conversation["nodes"].values()
    ]


def begin(chat: Chat) -> None:
    """An answer that is long enough to do something meanwhile."""
    chat.write(LONG)
    expect(chat.page.locator(".message.writing .prose").last).not_to_be_empty()


def stop(chat: Chat) -> None:
    chat.press("Stop the answer")
    expect(chat.page.locator(".note").filter(has_text="Stopped.")).to_be_visible()


# Several tabs.


def test_two_tabs_that_go_on_at_once(chat: Chat, other: Chat) -> None:
    begin(chat)
    other.page.locator("#list .entry").click()
    other.write(QUESTION)
    expect(other.page.locator(".message.assistant .prose").last).to_contain_text("Paris")
    stop(chat)
    for tab in (chat, other):
        expect(tab.page.locator(".message.writing")).to_have_count(0)
    words = kept_words(chat)
    assert LONG in words
    assert QUESTION in words
    assert any("Paris" in text for text in words)
    chat.page.reload()
    chat.ready()
    assert sorted(kept_words(chat)) == sorted(words)


def test_a_title_that_another_tab_gives_while_an_answer_is_written(chat: Chat, other: Chat) -> None:
    begin(chat)
    other.press(f"Options for {LONG[:59]}…")
    other.page.get_by_role("menuitem", name="Rename").click()
    other.page.keyboard.type("Fox")
    other.page.keyboard.press("Enter")
    expect_titles(chat, "Fox")
    stop(chat)
    for tab in (chat, other):
        expect_titles(tab, "Fox")
    assert [found["title"] for found in chat.page.evaluate(KEPT)] == ["Fox"]


def test_what_another_tab_deletes_while_it_is_answered_stays_deleted(
    chat: Chat, other: Chat
) -> None:
    begin(chat)
    other.page.locator("#list .entry").click()
    other.press("This conversation")
    other.page.get_by_role("menuitem", name="Delete").click()
    expect(chat.page.locator("#welcome")).to_be_visible()
    chat.page.wait_for_timeout(1500)  # answers are kept every second
    for tab in (chat, other):
        expect_titles(tab)
    assert chat.page.evaluate(KEPT) == []


def test_an_answer_whose_tab_was_closed_does_not_go_on_for_ever(
    chat: Chat, context: BrowserContext, server: Served
) -> None:
    writing = chat_in(context)
    writing.open(server.address)
    begin(writing)
    chat.page.locator("#list .entry").click()
    expect(chat.page.locator(".message.writing")).to_have_count(1)
    writing.page.close()
    expect(chat.page.locator(".note")).to_have_text("Stopped.")
    expect(chat.page.locator(".message.assistant .bar")).to_be_visible()


# One tab, and bad moments.


def test_a_title_that_is_typed_while_an_answer_ends(chat: Chat) -> None:
    begin(chat)
    chat.press(f"Options for {LONG[:59]}…")
    chat.page.get_by_role("menuitem", name="Rename").click()
    chat.page.keyboard.type("My half")
    expect(chat.page.locator(".message.writing")).to_have_count(0)
    chat.page.keyboard.type(" title")
    chat.page.keyboard.press("Enter")
    expect_titles(chat, "My half title")
    assert chat.questions == [LONG]


def test_an_edit_while_an_answer_is_written_is_not_lost(chat: Chat) -> None:
    begin(chat)
    chat.press("Edit message")
    field = chat.page.get_by_role("textbox", name="Edit message")
    field.fill(QUESTION)
    chat.page.keyboard.press("Enter")
    expect(chat.page.locator(".toast")).to_contain_text("An answer is being written.")
    expect(field).to_have_value(QUESTION)
    stop(chat)
    field.press("Enter")
    expect(chat.page.locator(".message.assistant .prose").last).to_contain_text("Paris")


def test_stop_while_the_model_is_loading(chat: Chat) -> None:
    loading = {"status": "loading", "progress": 0.4}
    busy = {"error": {"message": "the model is loading", "type": "server_error", "code": None}}
    chat.page.route("**/health", lambda route: route.fulfill(status=503, json=loading))
    # The second look never comes to an end: Stop is pressed while it is awaited.
    answer_with(chat.page, json.dumps(busy), status=503)
    chat.write(QUESTION)
    expect(chat.page.locator(".waiting")).to_contain_text("Waiting until the model is loaded")
    chat.page.unroute("**/health")
    held: list[Any] = []
    chat.page.route("**/health", lambda route: held.append(route))  # noqa: PLW0108  (Python's own)
    while not held:
        chat.page.wait_for_timeout(50)
    chat.press("Stop the answer")
    for route in held:
        route.fulfill(status=503, json=loading)
    expect(chat.page.locator(".note")).to_have_text("Stopped.")


def test_drafts_go_with_their_conversation_and_come_back_with_it(chat: Chat) -> None:
    chat.ask("Say hello.")
    box = chat.page.get_by_role("textbox", name="Message", exact=True)
    box.fill("half a thought")
    chat.press("This conversation")
    chat.page.get_by_role("menuitem", name="Delete").click()
    expect_titles(chat)
    assert "half a thought" not in chat.page.evaluate("JSON.stringify(localStorage)")
    chat.press("Undo")
    expect(box).to_have_value("half a thought")
    chat.press("Import, export …")
    chat.page.get_by_role("menuitem", name="Delete all").click()
    chat.press("Delete all")
    expect_titles(chat)
    assert "half a thought" not in chat.page.evaluate("JSON.stringify(localStorage)")


def test_the_link_to_the_message_box_leaves_the_conversation_open(chat: Chat) -> None:
    chat.ask("Say hello.")
    address = chat.page.url
    chat.page.locator(".skip").focus()
    chat.page.keyboard.press("Enter")
    expect(chat.page).to_have_url(address)
    assert chat.questions == ["Say hello."]


# A browser or a server that fails.


def test_a_database_that_the_browser_closes(chat: Chat) -> None:
    chat.ask("Say hello.")
    chat.page.evaluate("""new Promise((resolve) => {
        indexedDB.deleteDatabase("satchel:SmolLM2").onsuccess = resolve;
    })""")
    chat.ask(QUESTION)
    chat.page.reload()
    chat.ready()
    assert chat.questions == ["Say hello.", QUESTION]


def test_a_browser_that_keeps_nothing(context: BrowserContext, server: Served) -> None:
    chat = chat_in(context)
    chat.page.add_init_script(NO_STORAGE)
    chat.open(server.address)
    expect(chat.page.locator(".toast")).to_contain_text("This browser keeps nothing")
    assert "Paris" in chat.ask(QUESTION)
    assert chat.errors == []


def test_an_answer_that_is_nested_too_deeply(chat: Chat) -> None:
    deep = ">" * 8000 + " deep"
    answer_with(chat.page, stream_of({"content": deep}))
    chat.write("How deep?")
    chat.answered()
    assert "deep" in chat.answers[0]
    chat.page.reload()
    chat.ready()
    assert "deep" in chat.answers[0]


def test_a_page_that_comes_before_its_server(context: BrowserContext, pack: Place) -> None:
    """As browsers bring one back from their cache."""
    with serving(pack, "--temperature", "0", "--max-tokens", "16") as served:
        chat = chat_in(context)
        chat.open(served.address)
        chat.ask("Say hello.")
        chat.page.route("**/web/face.json", lambda route: route.abort())
        chat.page.reload()
        banner = chat.page.locator("#banner")
        expect(banner).to_contain_text("There is no connection to the assistant.")
        chat.page.unroute("**/web/face.json")
        chat.ready()
        expect(banner).to_be_hidden()
        assert chat.questions == ["Say hello."]
        names = chat.page.evaluate(
            "indexedDB.databases().then((all) => all.map((one) => one.name))"
        )
        assert names == ["satchel:SmolLM2"]


def test_an_import_that_the_browser_has_no_room_for(chat: Chat, tmp_path: Path) -> None:
    one = tmp_path / "one.json"
    one.write_text(exported({"a": ("user", "")}), encoding="utf-8")
    chat.page.evaluate("""() => {
        IDBObjectStore.prototype.put = () => {
            throw new DOMException("no room", "QuotaExceededError");
        };
    }""")
    chat.page.locator("#import-file").set_input_files(one)
    expect(chat.page.locator(".toast")).to_have_count(1)
    expect(chat.page.locator(".toast")).to_contain_text("This browser has no room left")
    expect_titles(chat)
