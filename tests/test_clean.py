from __future__ import annotations

import pytest

from runtime_stub.chat.clean import Cleaner, clean

HOSTILE = {
    "colour": ("a\x1b[31;1mb\x1b[0m", "ab"),
    "cursor and erasing": ("a\x1b[2J\x1b[H\x1b[?25lb", "ab"),
    "title": ("a\x1b]0;owned\x07b", "ab"),
    "title ended by a string terminator": ("a\x1b]2;owned\x1b\\b", "ab"),
    "clipboard": ("a\x1b]52;c;cm0gLXJm\x07b", "ab"),
    "link": ("\x1b]8;;http://bad\x1b\\word\x1b]8;;\x1b\\", "word"),
    "device control": ("a\x1bP1$r0m\x1b\\b", "ab"),
    "8-bit control": ("a\x9b31mb", "ab"),
    "8-bit title": ("a\x9d0;owned\x9cb", "ab"),
    "reset": ("a\x1bcb", "ab"),
    "bell, backspace and zero": ("a\x07\b\x00b\x7f", "ab"),
    "carriage return": ("shown\rhidden\r\n", "shownhidden\n"),
    "reversed writing": ("a\u202eb\u2066c", "abc"),
    "lone escape": ("a\x1b", "a"),
}


@pytest.mark.parametrize(("text", "expected"), HOSTILE.values(), ids=HOSTILE)
def test_control_is_taken_out(text: str, expected: str) -> None:
    assert clean(text) == expected


@pytest.mark.parametrize(("text", "expected"), HOSTILE.values(), ids=HOSTILE)
def test_wherever_it_is_cut(text: str, expected: str) -> None:
    """Fed in two pieces, at every place, and character by character."""
    for cut in range(len(text) + 1):
        cleaner = Cleaner()
        found = cleaner.feed(text[:cut]) + cleaner.feed(text[cut:]) + cleaner.finish()
        assert found == expected
    cleaner = Cleaner()
    assert "".join(map(cleaner.feed, text)) + cleaner.finish() == expected


def test_text_stays_as_it_is() -> None:
    text = "Tabs\tand\nlines, ünïcødé, 日本語, 👩‍👩‍👧, عربى, [31m, ]0;x"
    assert clean(text) == text
    cleaner = Cleaner()
    assert cleaner.feed(text) == text
    assert cleaner.finish() == ""


def test_endless_sequence_does_not_hold_the_answer_back() -> None:
    cleaner = Cleaner()
    cleaner.feed("\x1b]0;")
    shown = "".join(cleaner.feed("x" * 100) for _ in range(100))
    assert len(shown) > 5000
    assert "\x1b" not in shown
