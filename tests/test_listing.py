from __future__ import annotations

from runtime_stub.chat.listing import laid_out

LINES = ["/a\tdoes this", "/longer NAME\tdoes that, and a little more", "", "All of it."]


def test_columns() -> None:
    assert laid_out(LINES, 70) == [
        "/a            does this",
        "/longer NAME  does that, and a little more",
        "",
        "All of it.",
    ]


def test_narrow() -> None:
    found = laid_out(LINES, 20)
    assert found[:3] == ["/a", "  does this", "/longer NAME"]
    assert all(len(line) <= 20 for line in found)
