from __future__ import annotations

import json
from typing import Any

import pytest

from runtime_stub.engine.messages import Finished, PromptRead, Sampling, Text, Usage
from runtime_stub.server.openai import (
    MAX_STOPS,
    ChatReply,
    engine_request,
    error_document,
    parse_chat,
    usage_document,
)

HELLO = [{"role": "user", "content": "Hello"}]
USAGE = Usage(10, 4, 3, 0.1, 0.2)


def body(**fields: Any) -> bytes:
    return json.dumps({"messages": HELLO, **fields}).encode()


def asked(system: str | None = None, max_tokens: int | None = None, /, **fields: Any) -> Any:
    return engine_request(parse_chat(body(**fields)), Sampling(top_k=7), system, max_tokens)


def test_defaults() -> None:
    request = asked()
    assert request.messages == ({"role": "user", "content": "Hello"},)
    assert request.sampling == Sampling(top_k=7)
    assert (request.max_tokens, request.stop) == (None, ())


def test_everything() -> None:
    request = asked(
        temperature=0, top_p=0.5, top_k=3, min_p=0.1, frequency_penalty=-1, presence_penalty=1,
        repeat_penalty=1.1, seed=42, max_tokens=5, stop=["a", "b"], n=1, stream=True, user="me",
        store=False, metadata={"a": "b"}, stream_options={"include_usage": True}, model="x",
    )  # fmt: skip
    assert request.sampling == Sampling(0.0, 3, 0.5, 0.1, 1.1, -1.0, 1.0, 64, 42)
    assert (request.max_tokens, request.stop) == (5, ("a", "b"))


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({}, 9),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6}, 6),
        ({"max_tokens": 5, "max_completion_tokens": 6}, 6),
        ({"max_tokens": None}, 9),
    ],
)
def test_limit(fields: dict[str, Any], limit: int) -> None:
    assert asked(None, 9, **fields).max_tokens == limit


def test_system_prompt_of_the_pack() -> None:
    assert asked("Be brief.").messages[0] == {"role": "system", "content": "Be brief."}
    own = [{"role": "system", "content": "Mine."}, *HELLO]
    assert asked("Be brief.", messages=own).messages[0]["content"] == "Mine."


def test_contents() -> None:
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None},
        {"role": "assistant"},
        {"role": "user", "content": "c", "name": "Ann"},
        {"role": "user", "content": "d", "refusal": None, "extra": [1]},
    ]
    made = asked(messages=messages).messages
    assert [message["content"] for message in made] == ["ab", "", "", "c", "d"]
    assert made[3]["name"] == "Ann"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "x"}, "messages"),
        ({"messages": [1]}, r"messages\[0\]"),
        ({"messages": [{"content": "x"}]}, "role"),
        ({"messages": [{"role": 1, "content": "x"}]}, "role"),
        ({"messages": [{"role": "user", "content": 1}]}, "content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "content"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": 11}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"top_k": 1.5}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"frequency_penalty": 100}, "frequency_penalty"),
        ({"presence_penalty": -100}, "presence_penalty"),
        ({"repeat_penalty": -1}, "repeat_penalty"),
        ({"seed": -1}, "seed"),
        ({"seed": 10**30}, "seed"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -5}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"max_completion_tokens": 0, "max_tokens": 5}, "max_completion_tokens"),
        ({"stop": 1}, "stop"),
        ({"stop": ["x"] * (MAX_STOPS + 1)}, "stop"),
        ({"n": 2}, "n"),
        ({"stream": "yes"}, "stream"),
        ({"no_such_field": 1}, "no_such_field"),
        ({"tools": []}, "tools"),
    ],
)
def test_bad_field_is_named(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=field):
        asked(**fields)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"\xff\xfe",
        b'{"messages": [{"role": "user", "content": "\xff"}]}',
        b'{"messages": [{"role": "user", "content": "\xed\xa0\x80"}]}',
        b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
        b'{"messages": [{"role": "user", "content": "x"}], "temperature": Infinity}',
        b'{"messages": [{"role": "user", "content": "x"}], "temperature": 1e999}',
        b'{"messages": [{"role": "user", "content": "x"}], "seed": 1e3000}',
        b'{"messages": ' + b"[" * 200_000 + b"}",
        b'{"messages": [{"role": "user", "x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}]}",
        b'{"messages": [{"role": "user", "x": ' + b'{"a":' * 200_000 + b"}]}",
    ],
)
def test_bad_body(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_chat(data)


def test_surrogates_do_not_get_through() -> None:
    try:
        chat = parse_chat(b'{"messages": [{"role": "user", "content": "\\ud800"}]}')
    except ValueError:
        return
    content = chat.messages[0].content
    assert isinstance(content, str)
    content.encode()


def test_whole_answer() -> None:
    reply = ChatReply("1", 2, "m")
    for event in (PromptRead(10, 4), Text("Hi"), Text("!"), Finished("length", USAGE)):
        reply.add(event)
    assert reply.whole() == {
        "id": "chatcmpl-1",
        "created": 2,
        "model": "m",
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hi!"},
                "finish_reason": "length",
                "logprobs": None,
            }
        ],
        "usage": usage_document(USAGE),
    }


def test_usage() -> None:
    assert usage_document(USAGE) == {
        "prompt_tokens": 10,
        "completion_tokens": 3,
        "total_tokens": 13,
        "prompt_tokens_details": {"cached_tokens": 4},
    }
    assert usage_document(None)["total_tokens"] == 0


def test_chunks() -> None:
    reply = ChatReply("1", 2, "m")
    assert reply.chunk(PromptRead(1, 0)) is None
    chunks = [reply.first_chunk(), reply.chunk(Text("a")), reply.chunk(Finished("stop", USAGE))]
    assert all(chunk and chunk["object"] == "chat.completion.chunk" for chunk in chunks)
    choices = [chunk["choices"][0] for chunk in chunks if chunk]
    assert [choice["delta"] for choice in choices] == [
        {"role": "assistant", "content": ""},
        {"content": "a"},
        {},
    ]
    assert [choice["finish_reason"] for choice in choices] == [None, None, "stop"]


def test_error() -> None:
    assert error_document("m", "k", "c") == {
        "error": {"message": "m", "type": "k", "param": None, "code": "c"}
    }
