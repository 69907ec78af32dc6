from __future__ import annotations

import json

import pytest

from runtime_stub.chat.transcript import Exchange, Transcript, from_json, json_of, markdown
from runtime_stub.errors import FormatError

TALK = Transcript(
    "Be brief.",
    (Exchange("one\nline more", "# a"), Exchange("ünï \x1b[31m", "")),
    "Clinic",
)


@pytest.mark.parametrize("talk", [TALK, Transcript(None, ()), Transcript(None, TALK.exchanges)])
def test_saved_and_loaded(talk: Transcript) -> None:
    assert from_json(json_of(talk), "x") == talk


def test_messages_of_openai() -> None:
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    for document in (messages, {"messages": messages, "model": "x"}):
        found = from_json(json.dumps(document).encode(), "x")
        assert found.exchanges == (Exchange("q", "a"),)


BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no JSON"),
    "binary": (b"\xff\xfe\x00", "no JSON"),
    "deep": (b"[" * 100_000, "no JSON"),
    "number": (b"7", "no conversation"),
    "object": (b"{}", "no conversation"),
    "message": (b"[7]", "message 1"),
    "content": (b'[{"role": "user", "content": [1]}]', "message 1"),
    "half": (b'[{"role": "user", "content": "q"}]', "no answer"),
    "answer first": (b'[{"role": "assistant", "content": "q"}]', "out of turn"),
    "unknown role": (b'[{"role": "tool", "content": "q"}]', "out of turn"),
}


@pytest.mark.parametrize(("data", "message"), BAD.values(), ids=BAD)
def test_files_that_are_none(data: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=rf"talk\.json.*{message}"):
        from_json(data, "talk.json")


def test_half_of_a_surrogate_pair() -> None:
    data = rb'[{"role":"user","content":"\ud800"},{"role":"assistant","content":"x"}]'
    found = from_json(data, "x")
    found.exchanges[0].question.encode()
    json_of(Transcript(None, (Exchange("\ud800", ""),)))


def test_markdown() -> None:
    text = markdown(TALK)
    assert text.startswith("# Clinic\n\n> Be brief.\n\n## Question\n\none\nline more\n\n## Answer")
    assert text.endswith("\n")
