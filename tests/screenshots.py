"""Makes the pictures of the web page in docs/: python tests/screenshots.py

They show the sample pack (SATCHEL_SAMPLE_PACK, or dist/smollm2) on a computer and on a phone,
light and dark. What the model says is its own, but for one answer that shows what can be shown.
"""

from __future__ import annotations

import base64
import sys
import tempfile
from pathlib import Path
from typing import Any

from browser import Chat, answer_with, chat_in, launched, serving, stream_of
from playwright.sync_api import expect, sync_playwright
from running_pack import QUESTION, ROOT, place

DOCS = ROOT / "docs"
LARGEST = 150_000
"""Bytes of one picture."""
QUALITY = 82
RICH = """Merge sort halves the list, sorts both halves and merges them:

```python
def merge_sort(items: list[int]) -> list[int]:
    if len(items) < 2:
        return items  # nothing to sort
    middle = len(items) // 2
    left, right = merge_sort(items[:middle]), merge_sort(items[middle:])
    return merge(left, right)
```

| | Average | Worst | Memory |
| :-- | --: | --: | --: |
| Merge sort | $O(n \\log n)$ | $O(n \\log n)$ | $O(n)$ |
| Quick sort | $O(n \\log n)$ | $O(n^2)$ | $O(\\log n)$ |

Each level of the recursion costs $n$ steps, and there are $\\log_2 n$ of them:

$$T(n) = 2\\,T\\!\\left(\\frac{n}{2}\\right) + \\Theta(n)$$
"""


def picture(chat: Chat, name: str) -> None:
    """Write what is seen to docs/web-NAME.webp."""
    chat.page.wait_for_timeout(400)  # what moves has come to rest
    session = chat.page.context.new_cdp_session(chat.page)
    options = {"format": "webp", "quality": QUALITY}
    data = base64.b64decode(session.send("Page.captureScreenshot", options)["data"])
    if len(data) > LARGEST:
        sys.exit(f"{name} has {len(data):,} bytes")
    (DOCS / f"web-{name}.webp").write_bytes(data)
    sys.stdout.write(f"docs/web-{name}.webp  {len(data):,} bytes\n")


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        sync_playwright() as playwright,
        serving(place(Path(folder)), "--temperature", "0", "--max-tokens", "60") as served,
        launched(playwright) as (browser, _),
    ):
        looks: list[tuple[str, dict[str, Any], Any]] = [
            ("desktop", {"width": 1200, "height": 780}, "light"),
            ("desktop-dark", {"width": 1200, "height": 780}, "dark"),
            ("phone", {"width": 390, "height": 780}, "light"),
            ("phone-dark", {"width": 390, "height": 780}, "dark"),
        ]
        for name, size, scheme in looks:
            context = browser.new_context(
                viewport=size,  # type: ignore[arg-type]
                color_scheme=scheme,
                device_scale_factor=1 if size["width"] > 600 else 2,
                has_touch=size["width"] <= 600,
                is_mobile=size["width"] <= 600,
                locale="en",
            )
            chat = chat_in(context)
            chat.open(served.address)
            expect(chat.page.locator("#starters button").first).to_be_visible()
            if name in ("desktop", "phone-dark"):
                picture(chat, f"welcome-{name}")
            for question in ("Why is the sky blue?", QUESTION):
                chat.ask(question)
                if size["width"] > 600:
                    chat.press("New conversation")
                else:
                    chat.page.keyboard.press("Control+Shift+O")
            pieces: list[dict[str, Any]] = [
                {"reasoning_content": "The person wants code, and how long it takes."},
                *({"content": line} for line in RICH.splitlines(keepends=True)),
            ]
            answer_with(chat.page, stream_of(*pieces))
            chat.ask("How does merge sort work?")
            expect(chat.page.locator(".hljs-keyword").first).to_be_visible()
            expect(chat.page.locator("math").last).to_be_attached()
            # The speed of an answer that no model wrote means nothing.
            chat.page.locator(".facts").evaluate("(facts) => facts.remove()")
            chat.page.locator("#scroller").evaluate("(scroller) => scroller.scrollTo(0, 0)")
            picture(chat, name)
            context.close()


if __name__ == "__main__":
    main()
