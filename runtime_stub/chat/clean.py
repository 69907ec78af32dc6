"""Text that somebody else wrote, made fit to be shown on a terminal."""

from __future__ import annotations

import re

_SEQUENCE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # control sequences: colours, cursor, modes
    r"|\x9b[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)"  # titles, links
    r"|\x1b[ -/]*[0-~]"
)
_UNFINISHED = re.compile(
    r"(?:\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b\x9c]*\x1b?|[ -/]*)"
    r"|\x9b[0-?]*[ -/]*|[\x90\x98\x9d-\x9f][^\x07\x1b\x9c]*\x1b?)\Z"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_LONGEST_SEQUENCE = 4096


def clean(text: str) -> str:
    """`text` without terminal control: sequences, control characters, reversed writing.

    Line ends and tabs stay; a carriage return before a line end goes.
    """
    return _CONTROL.sub("", _SEQUENCE.sub("", text))


class Cleaner:
    """`clean` for text that comes in pieces, which may cut a sequence in two."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, text: str) -> str:
        """What is certain to be harmless after `text`, possibly nothing."""
        text = self._held + text
        self._held = ""
        found = _UNFINISHED.search(text)
        # One that never ends must not swallow the rest of the answer.
        if found and len(text) - found.start() <= _LONGEST_SEQUENCE:
            self._held = text[found.start() :]
            text = text[: found.start()]
        return clean(text)

    def finish(self) -> str:
        """The rest; the start of a sequence is none of it."""
        held, self._held = self._held, ""
        return clean(_UNFINISHED.sub("", held))
