"""From tokens' bytes to text that can be shown: whole characters, and no stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextStream:
    """Joins the bytes of tokens into text and ends it before the first stop string.

    A character may be spread over several tokens, and so may a stop string: what could
    still turn out to be one is held back.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._is_amid = False
        """Whether the decoder waits for the rest of a character."""
        self._stop = tuple(text for text in stop if text)
        self._held = ""
        self.stopped_by: str | None = None
        """The stop string that was found; nothing more comes out then."""

    def feed(self, data: bytes) -> str:
        """Text that is certain after `data`, possibly none."""
        text = self._decode_rest(data) if self._is_amid else self._decode(data)
        return self._release(text, final=False) if self._stop else text

    def finish(self) -> str:
        """The rest: what was held back, and a character cut short as U+FFFD."""
        return self._release(self._decoder.decode(b"", final=True), final=True)

    def _decode(self, data: bytes) -> str:
        try:
            return data.decode()  # nearly always
        except UnicodeDecodeError:
            return self._decode_rest(data)

    def _decode_rest(self, data: bytes) -> str:
        text = self._decoder.decode(data)
        self._is_amid = bool(self._decoder.getstate()[0])
        return text

    def _release(self, text: str, *, final: bool) -> str:
        if self.stopped_by is not None:
            return ""
        text = self._held + text
        found = [(text.find(stop), -len(stop), stop) for stop in self._stop if stop in text]
        if found:
            place, _, self.stopped_by = min(found)
            self._held = ""
            return text[:place]
        keep = 0 if final else max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` could be the start of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[-length:]):
            return length
    return 0
