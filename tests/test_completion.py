from __future__ import annotations

from pathlib import Path

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from runtime_stub.chat.commands import COMMANDS
from runtime_stub.chat.completion import ChatCompleter


def completed(text: str, starters: tuple[str, ...] = ()) -> list[str]:
    """What `text` becomes with each completion."""
    completer = ChatCompleter(lambda: ["small", "small:poet"], starters)
    found = completer.get_completions(Document(text), CompleteEvent())
    return [text[: len(text) + completion.start_position] + completion.text for completion in found]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/ex", ["/export"]),
        ("/", [f"/{name}" for name in COMMANDS]),
        ("/set temp", ["/set temperature"]),
        ("/set temperature ", ["/set temperature default"]),
        ("/set temperature 0.", []),
        ("/reasoning o", ["/reasoning on", "/reasoning off"]),
        ("/model small:", ["/model small:poet"]),
        ("hello", []),
        ("a /he", []),
        ("/system Be", []),
        ("/usr/bi", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert completed(text) == expected


def test_files(tmp_path: Path) -> None:
    (tmp_path / "talk.json").touch()
    assert completed(f"/load {tmp_path}/ta") == [f"/load {tmp_path}/talk.json"]


def test_starters_on_an_empty_line() -> None:
    assert completed("", ("Why?", "How?")) == ["Why?", "How?"]
    assert completed("W", ("Why?", "How?")) == []
