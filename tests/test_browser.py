from __future__ import annotations

import pytest
from browser import chromium, stream_of


@pytest.mark.parametrize("ci", ["", "true"])
def test_without_chromium(monkeypatch: pytest.MonkeyPatch, ci: str) -> None:
    """Its tests are left out with a reason, but never where CI is set."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CI", ci)
    monkeypatch.delenv("SATCHEL_CHROMIUM", raising=False)
    outcome = pytest.fail.Exception if ci else pytest.skip.Exception
    with pytest.raises(outcome, match="apt install chromium"):
        chromium()


def test_stream() -> None:
    lines = stream_of({"content": "Hi"}).split("\n\n")
    assert len(lines) == 5
    assert lines[-2] == "data: [DONE]"
