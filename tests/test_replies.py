from __future__ import annotations

import msgspec
import pytest

from runtime_stub.server.replies import Mould, sse


@pytest.mark.parametrize("text", ["", "a", '"', "\\", "\0", "é\n\u2028\U0001f600"], ids=ascii)
def test_a_mould_makes_what_would_be_made_without_it(text: str) -> None:
    def make(text: str) -> bytes:
        return sse({"before": "\0", "text": text, "after": None})

    mould = Mould(make)
    assert mould.fill(text) == make(text)
    assert msgspec.json.decode(mould.fill(text)[6:])["text"] == text
