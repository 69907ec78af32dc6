"""Chromium for tests, and a web page of a pack in it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, expect
from running_pack import ROOT, Place, address_of

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
AXE = ROOT / "build" / "web" / "node_modules" / "axe-core" / "axe.min.js"
PATIENCE = 120_000
"""Milliseconds that anything may take on a busy machine."""


def chromium() -> Path:
    """Chromium; the test is skipped without one, but fails where CI is set."""
    found = os.environ.get("SATCHEL_CHROMIUM") or shutil.which("chromium")
    if found is None:
        message = "there is no Chromium to drive: apt install chromium"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return Path(found)


_ITS_OWN = (".googleapis.com", ".google.com", ".gvt1.com")
"""Whom Chromium asks by itself, whatever its options say: for updates, and what it could fill in.
Pages can't make it, and what pages ask for is seen without this."""


class Outside:
    """Stands for everything beyond this machine: notes down who is asked for, and answers none.

    Tests see what pages ask for elsewhere, too; here comes what browsers do on their behalf, such
    as looking ahead.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                connection = self._listener.accept()[0]
            except OSError:
                return
            with connection:
                connection.settimeout(2)
                try:
                    line = connection.recv(2000).split(b"\r\n")[0].decode()
                except OSError:
                    continue  # a connection made in advance, for nobody
                if line and not any(host in line for host in _ITS_OWN):
                    self.asked.append(line)

    def close(self) -> None:
        self._listener.close()


@contextmanager
def launched(playwright: Playwright) -> Iterator[tuple[Browser, Outside]]:
    """Chromium in a folder of its own, and what it asks of other machines."""
    outside = Outside()
    browser = playwright.chromium.launch(
        executable_path=chromium(),
        args=[*ARGUMENTS, f"--proxy-server=http://127.0.0.1:{outside.port}"],
    )
    try:
        yield browser, outside
    finally:
        browser.close()
        outside.close()


@dataclass
class Served:
    """A running pack."""

    place: Place
    process: subprocess.Popen[str]
    address: str
    arguments: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def port(self) -> str:
        return self.address.rpartition(":")[2]

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()

    def start_again(self) -> None:
        """At the same address."""
        self.process = self.place.start(*self.arguments, "--port", self.port, **self.environment)
        assert address_of(self.process) == self.address


@contextmanager
def serving(place: Place, *options: str, **environment: str) -> Iterator[Served]:
    """A pack that serves, with options of its own."""
    arguments = ("serve", *options)
    process = place.start(*arguments, "--port", "0", **environment)
    served = Served(place, process, "", arguments, environment)
    try:
        served.address = address_of(process)
        yield served
    finally:
        served.stop()


@dataclass
class Chat:
    """The page, and what a person does with it."""

    page: Page
    errors: list[str] = field(default_factory=list)
    """What the browser complained of."""

    def open(self, address: str) -> None:
        self.page.goto(address)
        self.ready()

    def ready(self) -> None:
        expect(self.page.locator("html[data-ready]")).to_be_attached(timeout=PATIENCE)

    def write(self, text: str) -> None:
        self.page.get_by_role("textbox", name="Message", exact=True).fill(text)
        self.press("Send")

    def answered(self, count: int = 1) -> None:
        """Wait until that many answers are shown and none is being written."""
        answers = self.page.locator(".message.assistant")
        expect(answers).to_have_count(count, timeout=PATIENCE)
        expect(answers.last).not_to_have_class("writing", timeout=PATIENCE)
        expect(answers.last.locator(".bar")).to_be_visible(timeout=PATIENCE)

    def ask(self, text: str) -> str:
        """Send `text`, and give the answer when it is there."""
        before = self.page.locator(".message.assistant").count()
        self.write(text)
        self.answered(before + 1)
        return self.answers[-1]

    @property
    def answers(self) -> list[str]:
        return self.page.locator(".message.assistant .prose").all_inner_texts()[1::2]

    @property
    def questions(self) -> list[str]:
        return self.page.locator(".message.user .bubble").all_inner_texts()

    def press(self, label: str, *, within: str = "body", last: bool = True) -> None:
        """Click the button of that name."""
        found = self.page.locator(within).get_by_role("button", name=label, exact=True)
        (found.last if last else found.first).click()


def chat_in(context: BrowserContext) -> Chat:
    """A new page that notes what goes wrong in it."""
    chat = Chat(context.new_page())

    def on_console(message: Any) -> None:
        # That a connection fails is what some tests are about.
        if message.type == "error" and "Failed to load resource" not in message.text:
            chat.errors.append(message.text)

    chat.page.on("console", on_console)
    chat.page.on("pageerror", lambda error: chat.errors.append(str(error)))
    return chat


def stream_of(*deltas: dict[str, Any], reason: str = "stop") -> str:
    """The body of a streamed answer, as the server sends it."""
    head = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    chunks: list[dict[str, Any]] = [
        {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        for delta in deltas
    ]
    chunks.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    usage = {"prompt_tokens": 9, "completion_tokens": len(deltas), "total_tokens": 9 + len(deltas)}
    chunks.append({**head, "choices": [], "usage": usage})
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"


def answer_with(page: Page, *bodies: str, status: int = 200) -> list[dict[str, Any]]:
    """Have the next questions answered with `bodies` instead; gives what was asked."""
    asked: list[dict[str, Any]] = []
    rest = list(bodies)

    def fulfil(route: Any) -> None:
        asked.append(route.request.post_data_json)
        kind = "text/event-stream" if status == 200 else "application/json"
        route.fulfill(status=status, content_type=kind, body=rest.pop(0))
        if not rest:
            page.unroute("**/v1/chat/completions")

    page.route("**/v1/chat/completions", fulfil)
    return asked


def findings(page: Page) -> list[str]:
    """What axe-core finds that is serious or critical."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    result = page.evaluate(
        "axe.run(document, {resultTypes: ['violations']}).then((found) => found.violations)"
    )
    return [
        f"{rule['id']} ({rule['impact']}): {node['target']} {node['failureSummary']}"
        for rule in result
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]
