"""The web page of the real pack in a real browser: what a person sees and does."""

from __future__ import annotations

import json
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from browser import (
    Chat,
    Served,
    answer_with,
    chat_in,
    findings,
    serving,
    stream_of,
)
from page_fixtures import (
    DESKTOP,
    LONG,
    SLOWLY,
    chat,
    chromium,
    context,
    expect_titles,
    exported,
    pack,
    server,
)
from playwright.sync_api import BrowserContext, Page, expect
from running_pack import QUESTION, Place, place, sample_model, satchel, wait_for

__all__ = ["chat", "chromium", "context", "pack", "server"]
pytestmark = [pytest.mark.pack, pytest.mark.browser]

WORDY = "Explain photosynthesis to a child"
"""Answered in so many words that it takes long enough to tell how fast they come."""
PHONE = {"width": 360, "height": 740}
HOSTILE = """# Hello <script>window.hacked = 1</script>

<script>window.hacked = 2</script>
<img src=x onerror="window.hacked = 3"> <svg onload="window.hacked = 4"><script>window.hacked = 5</script></svg>
<iframe srcdoc="<script>parent.hacked = 6</script>"></iframe>
<style>body { display: none }</style> <link rel="stylesheet" href="https://evil.example/a.css">
<a href="javascript:window.hacked=7">raw link</a> [link](javascript:window.hacked=8)
[data](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==) [blob](vbscript:window.hacked=9)
![picture](https://evil.example/secret.png "title") ![x](x" onerror="window.hacked=10)
<form action="https://evil.example/"><input name="key" autofocus onfocus="window.hacked=11"><button>Go</button></form>
<base href="https://evil.example/"><meta http-equiv="refresh" content="0;url=https://evil.example/">
<details open ontoggle="window.hacked=12"><summary>more</summary>text</details>
<math><mtext><table><mglyph><style><!--</style><img title="--><img src onerror=window.hacked=13>">
<b onmouseover="window.hacked=14" id="message" style="position:fixed;inset:0">big</b>
<a href="https://evil.example/?q=1" ping="https://evil.example/ping">honest link</a>

```"><img src=x onerror=window.hacked=15>
code"><img src=x onerror=window.hacked=16>
```

```html
<script>window.hacked = 17</script>
```

| a<img src=x onerror=window.hacked=18> | b |
| - | - |
| $\\href{javascript:window.hacked=19}{x}$ | $$\\url{javascript:window.hacked=20}$$ |

$\\includegraphics{https://evil.example/x.png}$ \\(\\text{<img src=x onerror=window.hacked=21>}\\)

[ref]: javascript:window.hacked=22
[ref] [![x](https://evil.example/y.png)](javascript:window.hacked=23)

An honest link: https://evil.example/auto
"""  # noqa: E501


def is_idle(address: str) -> bool:
    slots = httpx.get(f"{address}/slots", trust_env=False).json()
    return not any(slot["is_processing"] for slot in slots)


# A conversation.


def test_conversation(chat: Chat, server: Served) -> None:
    expect(chat.page.get_by_label("Model")).to_be_hidden()
    assert chat.page.title() == "SmolLM2"
    assert "SmolLM2" in chat.page.locator("#welcome").inner_text()
    assert "Paris" in chat.ask(QUESTION)
    facts = chat.page.locator(".facts").inner_text()
    assert "tokens" in facts
    assert "first after" in facts
    assert "Paris" in chat.ask("Which city did I ask about? Name it.") or len(chat.answers) == 2
    expect_titles(chat, QUESTION)
    assert chat.page.title() == f"{QUESTION} – SmolLM2"
    chat.ask(WORDY)
    assert "per second" in chat.page.locator(".facts").last.inner_text()
    assert httpx.get(f"{server.address}/health", trust_env=False).json()["status"] == "ok"


def test_starter_question(chat: Chat) -> None:
    button = chat.page.locator("#starters button").first
    question = button.inner_text()
    button.click()
    chat.answered()
    assert chat.questions == [question]


def test_stop(chat: Chat, server: Served) -> None:
    for way in ("button", "key"):
        chat.press("New conversation")
        chat.write(LONG)
        expect(chat.page.locator(".message.writing .prose").last).not_to_be_empty()
        if way == "button":
            chat.press("Stop the answer")
        else:
            chat.page.keyboard.press("Escape")
        chat.answered()
        expect(chat.page.locator(".note")).to_have_text("Stopped.")
        assert chat.page.evaluate("document.activeElement.id") == "message"
        wait_for(lambda: is_idle(server.address), "the end of the request")


def test_answer_again(chat: Chat) -> None:
    first = chat.ask(QUESTION)
    chat.press("Answer again")
    expect(chat.page.get_by_label("Version 2 of 2")).to_be_visible()
    chat.answered()
    assert chat.answers == [first]  # the temperature is 0
    chat.press("Previous version")
    expect(chat.page.get_by_label("Version 1 of 2")).to_be_visible()


def test_edit_and_branch(chat: Chat) -> None:
    chat.ask("Say hello.")
    chat.ask("And now goodbye.")
    chat.press("Edit message", last=False)
    field = chat.page.get_by_role("textbox", name="Edit message")
    expect(field).to_be_focused()
    field.fill(QUESTION)
    chat.page.keyboard.press("Enter")
    expect(chat.page.get_by_label("Version 2 of 2")).to_be_visible()
    chat.answered(1)
    assert chat.questions == [QUESTION]
    assert "Paris" in chat.answers[0]
    chat.press("Previous version")
    expect(chat.page.locator(".message.user")).to_have_count(2)
    assert chat.questions == ["Say hello.", "And now goodbye."]
    chat.page.reload()
    chat.ready()
    assert chat.questions == ["Say hello.", "And now goodbye."]
    chat.press("Next version")
    expect(chat.page.locator(".message.user")).to_have_count(1)
    assert "Paris" in chat.answers[0]


def test_edit_is_given_up(chat: Chat) -> None:
    chat.ask("Say hello.")
    chat.page.keyboard.press("ArrowUp")
    expect(chat.page.get_by_role("textbox", name="Edit message")).to_be_focused()
    chat.page.keyboard.press("Escape")
    assert chat.questions == ["Say hello."]
    assert chat.page.get_by_label("Version 1 of").count() == 0


def test_reload_keeps_it(chat: Chat) -> None:
    answer = chat.ask(WORDY)
    chat.page.get_by_role("textbox", name="Message", exact=True).fill("half a thou")
    chat.page.reload()
    chat.ready()
    assert (chat.questions, chat.answers) == ([WORDY], [answer])
    assert chat.page.get_by_role("textbox", name="Message", exact=True).input_value() == (
        "half a thou"
    )
    assert "per second" in chat.page.locator(".facts").inner_text()


def test_reload_in_the_middle(chat: Chat, server: Served) -> None:
    chat.write(LONG)
    expect(chat.page.locator(".message.writing .prose").last).not_to_be_empty()
    time.sleep(1.4)  # it is kept every second, and once more when the page is left
    written = chat.answers[0]
    chat.page.reload()
    chat.ready()
    chat.answered()
    expect(chat.page.locator(".note")).to_have_text("Stopped.")
    assert written
    assert chat.answers[0].startswith(written)
    wait_for(lambda: is_idle(server.address), "the end of the request")


def test_two_tabs(chat: Chat, context: BrowserContext, server: Served) -> None:
    other = chat_in(context)
    other.open(server.address)
    chat.ask(QUESTION)
    expect(other.page.locator("#list .entry")).to_have_text([QUESTION])
    other.page.locator("#list .entry").click()
    # The question is kept first, and the answer while it grows.
    expect(other.page.locator(".message.assistant .prose").last).to_contain_text("Paris")
    assert other.errors == []


# The list of conversations.


def test_rename_search_delete(chat: Chat) -> None:
    chat.ask("Say hello.")
    chat.press("New conversation")
    chat.ask(QUESTION)
    expect_titles(chat, QUESTION, "Say hello.")
    chat.press(f"Options for {QUESTION}")
    chat.page.get_by_role("menuitem", name="Rename").click()
    chat.page.keyboard.type("Capitals")
    chat.page.keyboard.press("Enter")
    expect_titles(chat, "Capitals", "Say hello.")
    expect(chat.page.locator("#title")).to_have_text("Capitals")
    chat.page.keyboard.press("Control+k")
    chat.page.keyboard.type("france")  # in a message, not in the title
    expect_titles(chat, "Capitals")
    chat.page.keyboard.press("Control+a")
    chat.page.keyboard.type("zebra")
    expect(chat.page.locator("#list")).to_have_text("Nothing found.")
    chat.page.get_by_role("searchbox").fill("")
    chat.press("Options for Capitals")
    chat.page.get_by_role("menuitem", name="Delete").click()
    expect_titles(chat, "Say hello.")
    expect(chat.page.locator("#welcome")).to_be_visible()
    chat.press("Undo")
    expect_titles(chat, "Capitals", "Say hello.")
    assert "Paris" in chat.answers[0]
    chat.press("Options for Say hello.")
    chat.page.get_by_role("menuitem", name="Delete").click()
    chat.page.reload()
    chat.ready()
    expect_titles(chat, "Capitals")


def test_what_is_deleted_stays_deleted(chat: Chat, tmp_path: Path) -> None:
    """However soon the page is left: a browser drops changes that it takes for unfinished."""
    one = tmp_path / "one.json"
    one.write_text(exported({"a": ("user", "")}), encoding="utf-8")
    for _ in range(15):
        chat.page.locator("#import-file").set_input_files(one)
        expect(chat.page.locator("#list .entry")).to_have_count(1)
        chat.press("This conversation")
        chat.page.get_by_role("menuitem", name="Delete").click()
        chat.page.reload()
        chat.ready()
        assert chat.page.locator("#list .entry").count() == 0


def test_export_and_import(chat: Chat, tmp_path: Path) -> None:
    chat.ask("Say hello.")
    chat.press("Edit message")
    chat.page.get_by_role("textbox", name="Edit message").fill(QUESTION)
    chat.page.keyboard.press("Enter")
    chat.answered()
    expect(chat.page.get_by_label("Version 2 of 2")).to_be_visible()
    files = {}
    for label in ("Export as Markdown", "Export as JSON"):
        chat.press("This conversation")
        with chat.page.expect_download() as download:
            chat.page.get_by_role("menuitem", name=label).click()
        files[label] = tmp_path / download.value.suggested_filename
        download.value.save_as(files[label])
    text = files["Export as Markdown"].read_text(encoding="utf-8")
    assert text.startswith("# Say hello.\n\n## You\n\n" + QUESTION)
    assert "## SmolLM2\n\n" in text
    assert files["Export as JSON"].name == "Say hello..json"
    chat.press("This conversation")
    chat.page.get_by_role("menuitem", name="Delete").click()
    expect_titles(chat)
    chat.page.locator("#import-file").set_input_files(files["Export as JSON"])
    expect(chat.page.locator("#thread")).to_contain_text(QUESTION)
    assert "Paris" in chat.answers[0]
    chat.press("Previous version")
    assert chat.questions == ["Say hello."]
    chat.page.reload()
    chat.ready()
    assert chat.questions == ["Say hello."]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no json", "it is not JSON"),
        ('{"format": "other"}', "it was not exported here"),
        ('{"format": "satchel-conversations", "version": 2, "conversations": []}', "it is of"),
        (
            exported({"a": ("user", "b"), "b": ("user", "a")}),
            "conversation 1 goes round in a circle",
        ),
        (exported({"a": ("root", "")}), "conversation 1 holds a message of an unknown kind"),
        (exported({"a": ("user", "b")}), "conversation 1 misses a message"),
    ],
)
def test_bad_import(chat: Chat, text: str, words: str) -> None:
    file = {"name": "bad.json", "mimeType": "application/json", "buffer": text.encode()}
    chat.page.locator("#import-file").set_input_files(file)  # type: ignore[arg-type]
    expect(chat.page.locator(".toast")).to_contain_text(f"bad.json was not imported: {words}")
    expect_titles(chat)


# What models write.


def dangers(page: Page) -> list[str]:
    """What of an answer could do something."""
    found: list[str] = page.evaluate(
        """() => [...document.querySelectorAll("#thread .prose *")].flatMap((element) => [
          ...(/^(script|iframe|img|svg|style|link|form|input|base|meta|object|embed|video)$/i
              .test(element.tagName) && !element.closest("button") ? [element.tagName] : []),
          ...element.getAttributeNames().filter((name) => /^on|^style$|^id$|^src/i.test(name)),
          ...(/^(?!https?:)/.test(element.getAttribute("href") ?? "https:")
              && element.tagName === "A" ? [element.outerHTML] : []),
        ])"""
    )
    return found


def test_hostile_answer_runs_nothing(chat: Chat) -> None:
    chat.page.on("dialog", lambda dialog: pytest.fail(f"a dialog: {dialog.message}"))
    pieces = [{"content": HOSTILE[start : start + 40]} for start in range(0, len(HOSTILE), 40)]
    answer_with(chat.page, stream_of({"reasoning_content": HOSTILE}, *pieces))
    chat.ask("Be evil.")
    chat.page.locator(".reasoning summary").click()
    expect(chat.page.locator(".reasoning .prose")).to_contain_text("Hello")
    chat.page.wait_for_timeout(500)
    assert chat.page.evaluate("window.hacked") is None
    assert dangers(chat.page) == []
    answer = chat.page.locator(".message.assistant .prose").last
    assert "<script>window.hacked = 2</script>" in answer.inner_text()  # shown, not done
    link = answer.get_by_role("link", name="https://evil.example/auto")
    assert link.get_attribute("rel") == "noopener noreferrer nofollow"
    assert chat.page.locator("#message").count() == 1
    assert chat.page.evaluate("document.baseURI").startswith("http://127.0.0.1")
    # What the answer was refused, the page's own policy would have stopped, too.
    chat.page.reload()
    chat.ready()
    assert chat.page.evaluate("window.hacked") is None
    assert dangers(chat.page) == []


def test_policy_holds_without_the_sanitiser(chat: Chat) -> None:
    """Markup can't be put into the page at all, and nothing elsewhere can be reached."""
    for script in (
        "document.body.innerHTML = '<b>x</b>'",
        "document.body.setAttribute('onclick', 'hacked = 1'); document.body.click(); hacked",
    ):
        with pytest.raises(Exception, match=r"TrustedHTML|TrustedScript|not run"):
            chat.page.evaluate(script)
    assert chat.page.evaluate(
        "fetch('https://evil.example/').then(() => 'went through', () => 'stopped')"
    ) == ("stopped")
    chat.errors.clear()  # the browser complains of all these, as it should


MARKDOWN = """Text with `code`, **bold** and [a link](https://example.org/x).

```python
def twice(number):
    return 2 * number  # simple
```

| left | right |
| :--- | ---: |
| a | $x^2$ |

1. one
2. two

$$\\frac{1}{2}$$

It costs $5 or $10.
"""


def test_markdown(chat: Chat, context: BrowserContext) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    answer_with(chat.page, stream_of({"content": MARKDOWN}))
    chat.ask("Show all you can.")
    answer = chat.page.locator(".message.assistant .prose").last
    expect(answer.locator(".hljs-keyword")).to_have_text(["def", "return"])
    expect(answer.locator("th")).to_have_text(["left", "right"])
    expect(answer.locator("td").last).to_have_css("text-align", "end")
    expect(answer.locator("math")).to_have_count(2)
    expect(answer.locator("math mfrac")).to_have_count(1)
    expect(answer.locator("ol > li")).to_have_count(2)
    expect(answer).to_contain_text("It costs $5 or $10.")
    chat.press("Copy code")
    copied = chat.page.evaluate("navigator.clipboard.readText()")
    assert copied == "def twice(number):\n    return 2 * number  # simple"
    chat.press("Copy answer")
    expect(chat.page.get_by_role("button", name="Copied").first).to_be_visible()
    assert chat.page.evaluate("navigator.clipboard.readText()") == MARKDOWN


GROWS = """# Rome

The city is old. Nobody knows *how* old it is, but many have **guessed**, and each of them
wrote it down.

- a hill
- a river, and `water` in it

| year | what |
| - | - |
| 753 | a wall |
| 509 | a vote |

```python
for hill in hills:
    print(hill)
```

> Built in more than a day.

The end of it is not in sight.
"""


def test_blocks_that_are_written_stay_where_they_are(chat: Chat) -> None:
    """An answer that grows does not make anew what is there already: nothing flickers."""
    pieces = [GROWS[start : start + 9] for start in range(0, len(GROWS), 9)]
    # They come one by one, as from a model; Playwright's own answers come all at once.
    chat.page.evaluate(
        """(lines) => {
          const real = window.fetch;
          window.fetch = (url, options) => {
            if (!String(url).includes("chat/completions")) return real(url, options);
            window.fetch = real;
            const body = new ReadableStream({
              async start(control) {
                for (const line of lines) {
                  control.enqueue(new TextEncoder().encode(line + "\\n\\n"));
                  await new Promise((resolve) => setTimeout(resolve, 40));
                }
                control.close();
              },
            });
            return Promise.resolve(new Response(body));
          };
          window.replaced = [];
          new MutationObserver((changes) => changes.forEach((change) => change.removedNodes
            .forEach((node) => node.classList?.contains("block")
              && replaced.push([node.textContent, Boolean(change.nextSibling)]))
          )).observe(document.getElementById("thread"), {childList: true, subtree: true});
        }""",
        stream_of(*({"content": piece} for piece in pieces)).rstrip().split("\n\n"),
    )
    chat.ask("Tell me of Rome.")
    expect(chat.page.locator(".message.assistant .block")).to_have_count(7)
    replaced = chat.page.evaluate("window.replaced")
    assert replaced  # what was still growing
    assert [text for text, had_next in replaced if had_next] == []


def test_right_to_left(chat: Chat) -> None:
    hebrew = "שלום, מה שלומך היום?"
    answer_with(chat.page, stream_of({"content": f"{hebrew}\n\n1. {hebrew}\n\nEnglish, too."}))
    chat.ask(hebrew)
    question = chat.page.locator(".message.user .bubble")
    answer = chat.page.locator(".message.assistant .prose").last
    expect(question).to_have_css("direction", "rtl")
    expect(answer.locator("p").first).to_have_css("direction", "rtl")
    expect(answer.locator("ol")).to_have_css("direction", "rtl")
    expect(answer.locator("p").last).to_have_css("direction", "ltr")
    expect(chat.page.locator("#list .entry")).to_have_css("direction", "rtl")


def test_reasoning_is_folded(chat: Chat) -> None:
    answer_with(
        chat.page, stream_of({"reasoning_content": "I must *think*."}, {"content": "Done."})
    )
    chat.ask("Think.")
    expect(chat.page.locator(".reasoning .prose")).to_be_hidden()
    chat.page.get_by_text(re.compile(r"^Thought for (a moment|\d+ s)$")).click()
    expect(chat.page.locator(".reasoning .prose em")).to_have_text("think")
    asked = answer_with(chat.page, stream_of({"content": "Again."}))
    chat.ask("Once more.")
    assert "think" not in json.dumps(asked)  # it is not sent back


def test_tool_calls(chat: Chat) -> None:
    first = {"index": 0, "id": "call_1", "function": {"name": "weather", "arguments": '{"city":'}}
    second = {"index": 0, "function": {"arguments": ' "Oslo"}'}}
    answer_with(
        chat.page,
        stream_of({"tool_calls": [first]}, {"tool_calls": [second]}, reason="tool_calls"),
    )
    chat.write("What is the weather in Oslo?")
    expect(chat.page.locator(".call code")).to_have_text("weather")
    expect(chat.page.locator(".call pre")).to_have_text('{\n  "city": "Oslo"\n}')
    chat.page.get_by_role("textbox", name="Result of weather").fill("12 degrees")
    asked = answer_with(chat.page, stream_of({"content": "It is 12 degrees."}))
    chat.press("Send result")
    chat.answered(2)
    assert asked[0]["messages"][-2]["tool_calls"][0]["function"]["arguments"] == '{"city": "Oslo"}'
    assert asked[0]["messages"][-1] == {
        "role": "tool",
        "tool_call_id": "call_1",
        "content": "12 degrees",
    }
    expect(chat.page.locator(".message.tool .bubble")).to_have_text("12 degrees")


# Settings and models.


def test_settings(chat: Chat) -> None:
    chat.press("Settings")
    field = chat.page.get_by_role("textbox", name="System prompt")
    assert field.input_value() == "You are a helpful assistant."
    expect(chat.page.get_by_label("Temperature")).to_have_attribute("placeholder", "0")
    expect(chat.page.get_by_label("Longest answer")).to_have_attribute("placeholder", "1000")
    field.fill("Be brief.")
    chat.page.get_by_label("Temperature").fill("0.5")
    chat.page.get_by_text("Structured answers and tools").click()
    schema = chat.page.get_by_role("textbox", name="JSON schema")
    schema.fill("{oops")
    chat.press("Save")
    expect(chat.page.get_by_role("alert")).to_have_text("This is not a JSON schema: an object.")
    schema.fill('{"type": "object", "properties": {"city": {"enum": ["Paris"]}}, '
                '"required": ["city"], "additionalProperties": false}')  # fmt: skip
    chat.press("Save")
    expect(chat.page.locator("dialog")).to_have_count(0)
    with chat.page.expect_request("**/v1/chat/completions") as request:
        answer = chat.ask(QUESTION)
    sent: Any = request.value.post_data_json
    assert sent["messages"][0] == {"role": "system", "content": "Be brief."}
    assert sent["temperature"] == 0.5
    assert "top_k" not in sent
    assert json.loads(answer) == {"city": "Paris"}
    chat.page.reload()
    chat.ready()
    chat.press("Settings")
    assert chat.page.get_by_label("Temperature").input_value() == "0.5"
    chat.press("Reset")
    chat.press("Save")
    asked = answer_with(chat.page, stream_of({"content": "Hi."}))
    chat.ask("Hello")
    assert asked[0]["messages"][0]["role"] == "user"
    assert set(asked[0]) == {"model", "messages", "stream", "stream_options"}


def test_a_setting_that_the_server_refuses(chat: Chat) -> None:
    chat.press("Settings")
    chat.page.get_by_text("Structured answers and tools").click()
    chat.page.get_by_role("textbox", name="JSON schema").fill('{"type": "nonsense"}')
    chat.press("Save")
    chat.write("Hello")
    chat.answered()
    expect(chat.page.locator(".note.failed")).to_contain_text("type")
    expect(chat.page.locator(".note.failed")).to_contain_text("JSON's types")
    expect(chat.page.get_by_role("button", name="Try again")).to_be_visible()


def test_look(chat: Chat) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    light = chat.page.evaluate(ground)
    chat.page.emulate_media(color_scheme="dark")
    dark = chat.page.evaluate(ground)
    assert light != dark
    chat.press("Settings")
    chat.page.get_by_label("Look").select_option("Light")
    assert chat.page.evaluate(ground) == light
    chat.page.reload()
    chat.ready()
    assert chat.page.evaluate(ground) == light


SEVERAL = """
name = "Clinic"
context = 1024
max_tokens = 24

[sampling]
temperature = 0

[face]
greeting = "Ask about opening hours."
starters = ["When are you open?"]
icon = "@icon.svg"
accent = "#7a1f5c"

[[models]]
name = "smol"
file = "{sample}"
system = "You are a helpful assistant."

[[models]]
name = "terse"
file = "{sample}"
system = "You are a helpful assistant. Be terse."
max_tokens = 3
"""
ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9" width="9" height="9">'
    '<script>parent.hacked = 1; hacked = 1</script><rect width="9" height="9"/></svg>'
)


@pytest.fixture
def clinic(tmp_path: Path) -> Place:
    """A pack of two models with a face of its own."""
    (tmp_path / "icon.svg").write_text(ICON)
    recipe = tmp_path / "clinic.toml"
    recipe.write_text(SEVERAL.format(sample=sample_model()), encoding="utf-8")
    satchel("pack", "--recipe", recipe, "-o", tmp_path / "clinic")
    (tmp_path / "there").mkdir()
    return place(tmp_path / "there", source=tmp_path / "clinic")


def test_face_and_several_models(context: BrowserContext, clinic: Place) -> None:
    with serving(clinic) as served:
        chat = chat_in(context)
        chat.open(served.address)
        page = chat.page
        assert page.title() == "Clinic"
        expect(page.locator("#welcome")).to_contain_text("Ask about opening hours.")
        expect(page.locator("#starters button")).to_have_text(["When are you open?"])
        expect(page.locator("#send")).to_have_css("background-color", "rgb(233, 232, 226)")
        page.get_by_role("textbox", name="Message", exact=True).fill("x")
        expect(page.locator("#send")).to_have_css("background-color", "rgb(122, 31, 92)")
        assert page.locator("#brand-icon").evaluate("(image) => image.naturalWidth") == 9
        assert page.evaluate("window.hacked") is None

        model = page.get_by_label("Model")
        expect(model.locator("option")).to_have_text(["smol", "terse"])
        assert "Paris" in chat.ask(QUESTION)
        model.select_option("terse")
        chat.press("Answer again")
        expect(page.get_by_label("Version 2 of 2")).to_be_visible()
        chat.answered()
        expect(page.locator(".facts")).to_contain_text("terse · 3 tokens")
        expect(page.locator(".note")).to_contain_text("reached its longest length")
        chat.press("Settings")
        field = page.get_by_role("textbox", name="System prompt")
        expect(field).to_have_value("You are a helpful assistant. Be terse.")
        expect(page.get_by_label("Longest answer")).to_have_attribute("placeholder", "3")
        page.reload()
        chat.ready()
        expect(model).to_have_value("terse")
        chat.press("Previous version")
        expect(page.locator(".facts")).to_contain_text("smol · ")
        assert chat.errors == []


# When something is in the way.


def test_api_key(context: BrowserContext, pack: Place) -> None:
    key = "s3cret-key"
    options = ("--temperature", "0", "--max-tokens", "20")
    with serving(pack, *options, SATCHEL_API_KEY=key) as served:
        chat = chat_in(context)
        chat.page.goto(served.address)
        dialog = chat.page.get_by_role("dialog", name="API key")
        expect(dialog).to_be_visible()
        assert findings(chat.page) == []
        chat.page.get_by_label("Key", exact=True).fill("wrong")
        chat.page.keyboard.press("Enter")
        expect(dialog.get_by_role("alert")).to_have_text("That key is wrong. Try again:")
        chat.page.get_by_label("Key", exact=True).fill(key)
        chat.press("Continue")
        expect(dialog).to_have_count(0)
        assert "Paris" in chat.ask(QUESTION)
        chat.page.reload()
        chat.ready()
        assert "Paris" in chat.ask(QUESTION)
        assert chat.page.evaluate("JSON.stringify(localStorage)").count(key) == 0
        assert chat.errors == []


def test_server_stopped_and_started(context: BrowserContext, pack: Place) -> None:
    with serving(pack, *SLOWLY) as served:
        chat = chat_in(context)
        chat.open(served.address)
        chat.write(LONG)
        expect(chat.page.locator(".message.writing .prose").last).not_to_be_empty()
        served.stop()
        expect(chat.page.locator(".note.failed")).to_contain_text(
            "The connection to the server was lost."
        )
        begun = chat.answers[0]
        assert begun  # what had arrived is kept
        banner = chat.page.locator("#banner")
        expect(banner).to_contain_text("There is no connection to SmolLM2")
        assert findings(chat.page) == []
        chat.write("Are you there?")
        expect(chat.page.locator(".note.failed")).to_have_count(2)
        served.start_again()
        expect(banner).to_be_hidden()
        chat.press("Try again")
        chat.answered(2)
        expect(chat.page.locator(".note.failed")).to_have_count(1)
        assert chat.answers[0] == begun
        assert chat.errors == []


def test_model_is_loading(chat: Chat) -> None:
    loading = {"status": "loading", "progress": 0.4}
    busy = {"error": {"message": "the model is loading", "type": "server_error", "code": None}}
    chat.page.route("**/health", lambda route: route.fulfill(status=503, json=loading))
    chat.page.reload()
    chat.ready()
    expect(chat.page.locator("#banner")).to_contain_text("The model is loading.")
    expect(chat.page.get_by_role("progressbar")).to_have_attribute("value", "0.4")
    answer_with(chat.page, json.dumps(busy), status=503)
    chat.write(QUESTION)
    expect(chat.page.locator(".waiting")).to_have_text("Waiting until the model is loaded …")
    chat.page.unroute("**/health")
    chat.answered()
    assert "Paris" in chat.answers[0]
    expect(chat.page.locator("#banner")).to_be_hidden()


def test_server_is_busy(chat: Chat) -> None:
    busy = {"error": {"message": "too many", "type": "server_error", "code": "busy"}}
    answer_with(chat.page, json.dumps(busy), status=503)
    chat.write(QUESTION)
    expect(chat.page.locator(".waiting")).to_contain_text("Waiting for a place")
    chat.answered()
    assert "Paris" in chat.answers[0]


def test_what_does_not_fit_is_left_out(chat: Chat) -> None:
    chat.ask("Say hello.")
    full = {
        "error": {"message": "too long", "type": "x", "code": "context_length_exceeded"},
    }
    asked = answer_with(chat.page, json.dumps(full), status=400)
    answer = chat.ask(QUESTION)
    assert len(asked[0]["messages"]) == 3
    assert "Paris" in answer
    expect(chat.page.locator(".note").last).to_contain_text("The oldest 2 messages were left out")


def test_question_that_never_fits(chat: Chat) -> None:
    chat.write("word " * 40_000)
    chat.answered()
    expect(chat.page.locator(".note.failed")).to_contain_text("context")


# For everybody.


def test_keyboard_alone(chat: Chat) -> None:
    page = chat.page
    assert page.evaluate("document.activeElement.id") == "message"
    page.keyboard.type("Say hello.")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("Please.")
    page.keyboard.press("Enter")
    chat.answered()
    assert chat.questions == ["Say hello.\nPlease."]
    page.keyboard.press("Control+Shift+O")
    expect(page.locator("#welcome")).to_be_visible()
    page.keyboard.press("Control+K")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator(".message.user")).to_have_count(1)
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Control+K")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("menu")).to_be_visible()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Escape")
    expect(page.get_by_role("menu")).to_have_count(0)
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "message"
    assert page.input_value("#message") == ""


def test_every_button_has_a_name_and_a_visible_focus(chat: Chat) -> None:
    chat.ask("Say hello.")
    page = chat.page
    page.evaluate("document.querySelector('.skip').focus()")
    seen: list[str] = []
    for _ in range(40):
        page.keyboard.press("Tab")
        found = page.evaluate(
            """() => {
              const at = document.activeElement;
              if (at === document.body) return null;
              const style = getComputedStyle(at);
              const box = at.closest(".box");
              const seen = style.outlineStyle !== "none"
                || (box && getComputedStyle(box).outlineStyle !== "none");
              return [at.id || at.getAttribute("aria-label") || at.textContent, seen];
            }"""
        )
        if found is None:
            break
        name, visible = found
        assert name.strip()
        assert visible, f"nothing shows that {name!r} has the focus"
        seen.append(name)
    assert {"message", "new", "search", "Copy answer", "Answer again"} <= set(seen)


def test_screen_readers_are_told(chat: Chat) -> None:
    answer = chat.ask(QUESTION)
    expect(chat.page.locator("#said")).to_have_text(f"SmolLM2: {answer}")
    expect(chat.page.get_by_role("article", name="You")).to_have_count(1)
    expect(chat.page.get_by_role("article", name="SmolLM2")).to_have_attribute("aria-busy", "false")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_accessible(chat: Chat, scheme: Any, size: Any) -> None:
    page = chat.page
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.set_viewport_size(size)
    assert findings(page) == []
    answer_with(page, stream_of({"reasoning_content": "Well."}, {"content": MARKDOWN}))
    chat.ask("Show all you can.")
    expect(page.locator("math")).to_have_count(2)
    page.locator(".reasoning summary").click()
    assert findings(page) == []
    chat.press("Edit message")
    assert findings(page) == []
    page.keyboard.press("Escape")
    chat.press("Settings")
    page.get_by_text("Structured answers and tools").click()
    assert findings(page) == []
    page.keyboard.press("Escape")
    if size is PHONE:
        chat.press("Show conversations")
    chat.press("Options for Show all you can.")
    assert findings(page) == []


def test_phone(chat: Chat) -> None:
    page = chat.page
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    wide = MARKDOWN + "| a | " * 30 + "|\n" + "| - | - " * 30 + "|\n\n```\n" + "x" * 300 + "\n```\n"
    answer_with(page, stream_of({"content": wide}))
    chat.ask("w" * 200)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert page.evaluate("document.getElementById('scroller').scrollWidth") <= PHONE["width"]
    expect(page.locator("#sidebar")).to_be_hidden()
    chat.press("Show conversations")
    expect(page.locator("#sidebar")).to_be_visible()
    page.locator("#list .entry").click()
    expect(page.locator("#sidebar")).to_be_hidden()
    chat.press("Show conversations")
    page.keyboard.press("Escape")
    expect(page.locator("#sidebar")).to_be_hidden()


# Quick.


def note(sizes: list[float]) -> Callable[[Any], None]:
    return lambda event: sizes.append(event["encodedDataLength"])


def test_first_paint(context: BrowserContext, server: Served) -> None:
    """Under 200 KB transferred and under 0.5 s: the best of several first visits, as others may
    keep the machine busy."""
    times: list[float] = []
    sizes: list[float] = []
    while len(times) < 5 or (min(times) >= 0.5 and len(times) < 30):
        browser = context.browser
        assert browser is not None
        visit = browser.new_context(viewport=DESKTOP)  # type: ignore[arg-type]
        page = visit.new_page()
        session = visit.new_cdp_session(page)
        session.send("Network.enable")
        received: list[float] = []
        session.on("Network.loadingFinished", note(received))
        page.goto(server.address)
        expect(page.locator("html[data-ready]")).to_be_attached()
        page.wait_for_timeout(200)
        paint = page.evaluate(
            "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 1e9"
        )
        times.append(paint / 1000)
        sizes.append(sum(received))
        visit.close()
    print(f"first paint {statistics.median(times):.3f} s, {max(sizes):,.0f} bytes")  # noqa: T201
    assert min(times) < 0.5
    assert max(sizes) < 200_000


def test_a_second_visit_transfers_nearly_nothing(chat: Chat) -> None:
    session = chat.page.context.new_cdp_session(chat.page)
    session.send("Network.enable")
    received: list[float] = []
    session.on("Network.loadingFinished", note(received))
    chat.page.reload()
    chat.ready()
    assert 0 < sum(received) < 30_000
