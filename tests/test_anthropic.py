from __future__ import annotations

import json
from typing import Any, get_args, get_type_hints

import httpx
import pytest
from engine_fixtures import ScriptedEngine
from face_fixtures import USAGE, asked_of, scripted, send, serving

from runtime_stub.engine.messages import (
    ChoiceEnd,
    Event,
    Failed,
    Finished,
    PromptRead,
    Reasoning,
    Request,
    Sampling,
    Text,
    TokenizeRequest,
    Tokens,
    ToolCall,
)
from runtime_stub.server import bridge, streaming

HELLO: list[Event | float] = [PromptRead(10, 4), Text("Hel"), Text("lo"), Finished("stop", USAGE)]
THOUGHT: list[Event | float] = [
    PromptRead(10, 4),
    Reasoning("H"),
    Reasoning("m."),
    Text("Yes"),
    Finished("stop", USAGE),
]
CALLS: list[Event | float] = [
    PromptRead(10, 4),
    Text("So:"),
    ToolCall(0, "abc", "weather"),
    ToolCall(0, arguments='{"city": '),
    ToolCall(0, arguments='"Oslo"}'),
    ToolCall(1, "def", "clock"),
    ToolCall(1, arguments="{}"),
    ChoiceEnd("tool_calls"),
    Finished("tool_calls", USAGE),
]
WEATHER = {
    "name": "weather",
    "description": "Tells it",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
USER = {"role": "user", "content": "Hi"}
MESSAGES = "/v1/messages"


def message(engine: ScriptedEngine, **fields: Any) -> httpx.Response:
    document = {"model": "pack", "max_tokens": 50, "messages": [USER], **fields}
    return send(
        engine, "POST", MESSAGES, json=document, headers={"anthropic-version": "2023-06-01"}
    )


def asked(**fields: Any) -> Request:
    engine = scripted(HELLO)
    response = message(engine, **fields)
    assert response.status_code == 200, response.text
    return asked_of(engine)


def events_of(response: httpx.Response) -> list[Any]:
    assert response.headers["content-type"].startswith("text/event-stream")
    documents = []
    for entry in response.text.removesuffix("\n\n").split("\n\n"):
        kind, data = entry.split("\n")
        document = json.loads(data.removeprefix("data: "))
        assert kind == f"event: {document['type']}"
        documents.append(document)
    return documents


def error_of(response: httpx.Response) -> tuple[str, str]:
    document = response.json()
    assert (set(document), document["type"]) == ({"type", "error"}, "error")
    return document["error"]["type"], document["error"]["message"]


# Whole answers.


def test_whole_message() -> None:
    document = message(scripted(HELLO)).json()
    assert document.pop("id").startswith("msg_")
    assert document == {
        "type": "message",
        "role": "assistant",
        "model": "pack",
        "content": [{"type": "text", "text": "Hello"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 6,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 4,
            "output_tokens": 2,
        },
    }


@pytest.mark.parametrize(
    ("reason", "expected"),
    [("stop", "end_turn"), ("length", "max_tokens"), ("tool_calls", "tool_use")],
)
def test_stop_reasons(reason: str, expected: str) -> None:
    events: list[Event | float] = [Text("a"), Finished(reason, USAGE)]
    assert message(scripted(events)).json()["stop_reason"] == expected


def test_the_stop_sequence_is_told() -> None:
    events: list[Event | float] = [
        PromptRead(10, 4),
        Text("a"),
        ChoiceEnd("stop", stop="END"),
        Finished("stop", USAGE, "END"),
    ]
    document = message(scripted(events), stop_sequences=["END"]).json()
    assert (document["stop_reason"], document["stop_sequence"]) == ("stop_sequence", "END")
    *_, delta, _ = events_of(message(scripted(events), stop_sequences=["END"], stream=True))
    assert delta["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": "END"}


def test_uses_of_tools() -> None:
    content = message(scripted(CALLS), tools=[WEATHER]).json()["content"]
    assert content == [
        {"type": "text", "text": "So:"},
        {"type": "tool_use", "id": "abc", "name": "weather", "input": {"city": "Oslo"}},
        {"type": "tool_use", "id": "def", "name": "clock", "input": {}},
    ]


@pytest.mark.parametrize("thinking", [True, False])
def test_blocks_stand_in_the_order_in_which_they_came(thinking: bool) -> None:
    """Whole as in a stream."""
    events: list[Event | float] = [
        Reasoning("H"),
        Reasoning("m."),
        Text("So"),
        Text(":"),
        ToolCall(0, "abc", "weather", '{"city": "Oslo"}'),
        Text("A"),
        Reasoning("Now."),
        Text("nd:"),
        ToolCall(1, "def", "clock", "{}"),
        Text("Done."),
        Finished("tool_calls", USAGE),
    ]
    wanted = {"type": "enabled" if thinking else "disabled"}
    content = message(scripted(events), tools=[WEATHER], thinking=wanted).json()["content"]
    said = [block.get("text") or block.get("thinking") or block["name"] for block in content]
    if thinking:
        assert said == ["Hm.", "So:", "weather", "A", "Now.", "nd:", "clock", "Done."]
    else:
        assert said == ["So:", "weather", "And:", "clock", "Done."]
    documents = events_of(message(scripted(events), tools=[WEATHER], thinking=wanted, stream=True))
    begun = [entry["content_block"] for entry in documents if "content_block" in entry]
    assert [block["type"] for block in begun] == [block["type"] for block in content]


def test_use_that_is_cut_off_is_left_out() -> None:
    events: list[Event | float] = [ToolCall(0, "a", "f", '{"x": '), Finished("length", USAGE)]
    document = message(scripted(events), tools=[WEATHER]).json()
    assert (document["content"], document["stop_reason"]) == ([], "max_tokens")


@pytest.mark.parametrize("kind", ["enabled", "adaptive"])
def test_thinking_that_is_asked_for(kind: str) -> None:
    engine = scripted(THOUGHT)
    content = message(engine, thinking={"type": kind, "budget_tokens": 1024}).json()["content"]
    assert content == [
        {"type": "thinking", "thinking": "Hm.", "signature": ""},
        {"type": "text", "text": "Yes"},
    ]
    assert asked_of(engine).template_arguments == {"enable_thinking": True}


@pytest.mark.parametrize("thinking", [None, {"type": "disabled"}, {"type": "between_tools"}])
def test_thinking_that_is_not_asked_for(thinking: dict[str, Any] | None) -> None:
    engine = scripted(THOUGHT)
    content = message(engine, thinking=thinking).json()["content"]
    assert content == [{"type": "text", "text": "Yes"}]
    assert asked_of(engine).template_arguments == {"enable_thinking": False}


def test_thinking_that_is_not_to_be_shown() -> None:
    thinking = {"type": "enabled", "budget_tokens": 1024, "display": "omitted"}
    assert [
        block["type"] for block in message(scripted(THOUGHT), thinking=thinking).json()["content"]
    ] == ["text"]
    assert asked(thinking=thinking).template_arguments == {"enable_thinking": True}


# Streams.


def test_streamed_message() -> None:
    start, ping, *blocks, delta, stop = events_of(message(scripted(HELLO), stream=True))
    assert start["type"] == "message_start"
    assert start["message"]["id"].startswith("msg_")
    assert (start["message"]["content"], start["message"]["stop_reason"]) == ([], None)
    assert start["message"]["usage"] == {
        "input_tokens": 6,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 4,
        "output_tokens": 0,
    }
    assert ping == {"type": "ping"}
    assert blocks == [
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "text", "text": ""},
        },
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "text_delta", "text": "Hel"},
        },
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "lo"}},
        {"type": "content_block_stop", "index": 0},
    ]
    assert delta["type"] == "message_delta"
    assert delta["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert delta["usage"]["output_tokens"] == 2
    assert stop == {"type": "message_stop"}


def test_streamed_uses_of_tools() -> None:
    documents = events_of(message(scripted(CALLS), stream=True, tools=[WEATHER]))[2:-2]
    outline = [(document["type"], document["index"]) for document in documents]
    assert outline == [
        ("content_block_start", 0),
        ("content_block_delta", 0),
        ("content_block_stop", 0),
        ("content_block_start", 1),
        ("content_block_delta", 1),
        ("content_block_delta", 1),
        ("content_block_stop", 1),
        ("content_block_start", 2),
        ("content_block_delta", 2),
        ("content_block_stop", 2),
    ]
    assert documents[3]["content_block"] == {
        "type": "tool_use",
        "id": "abc",
        "name": "weather",
        "input": {},
    }
    assert documents[4]["delta"] == {"type": "input_json_delta", "partial_json": '{"city": '}


def test_streamed_thinking() -> None:
    documents = events_of(message(scripted(THOUGHT), stream=True, thinking={"type": "adaptive"}))
    blocks = [entry["content_block"] for entry in documents if "content_block" in entry]
    assert blocks == [
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "text", "text": ""},
    ]
    deltas = [entry["delta"] for entry in documents if entry["type"] == "content_block_delta"]
    assert deltas[0] == {"type": "thinking_delta", "thinking": "H"}


def test_failure_in_the_middle() -> None:
    events: list[Event | float] = [Text("a"), Failed("engine", "It failed")]
    *_before, error = events_of(message(scripted(events), stream=True))
    assert error == {"type": "error", "error": {"type": "api_error", "message": "It failed"}}


def test_idle_stream_is_kept_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "KEEP_ALIVE_SECONDS", 0.02)
    events: list[Event | float] = [PromptRead(1, 0), 0.1, *HELLO[1:]]
    _start, *pings = events_of(message(scripted(events), stream=True))[:3]
    assert pings == [{"type": "ping"}, {"type": "ping"}]


def test_a_stream_begins_before_there_is_anything_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a sign of life alone: how long the prompt is is told when that is known."""
    monkeypatch.setattr(bridge, "BEGIN_SECONDS", 0.05)
    monkeypatch.setattr(bridge, "LOOK_SECONDS", 0.02)
    ping, start, *_ = events_of(message(scripted([0.3, *HELLO]), stream=True))
    assert ping == {"type": "ping"}
    assert start["message"]["usage"]["cache_read_input_tokens"] == 4
    response = message(scripted([0.3, Failed("timeout", "It failed")]), stream=True)
    assert response.status_code == 200
    assert events_of(response)[-1]["error"] == {"type": "timeout_error", "message": "It failed"}


def test_hidden_thinking_keeps_the_stream_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "KEEP_ALIVE_SECONDS", 0.05)
    thoughts: list[Event | float] = [Reasoning("m"), 0.02]
    engine = scripted([PromptRead(10, 4), *thoughts * 15, *THOUGHT[2:]])
    documents = events_of(message(engine, stream=True))
    assert [document["type"] for document in documents[:4]] == ["message_start", *["ping"] * 3]


# What the engine is asked.


def test_settings() -> None:
    request = asked(
        temperature=0.5, top_k=3, top_p=0.9, stop_sequences=["END"], metadata={"user_id": "x"}
    )
    assert request.messages == ({"role": "system", "content": "Be brief."}, USER)
    assert request.sampling == Sampling(temperature=0.5, top_k=3, top_p=0.9, seed=7)
    assert (request.max_tokens, request.stop) == (50, ("END",))
    assert (request.tools, request.tool_choice) == ((), "auto")


@pytest.mark.parametrize(
    "system",
    ["Rhyme.\nAlways.", [{"type": "text", "text": "Rhyme."}, {"type": "text", "text": "Always."}]],
)
def test_system(system: str | list[Any]) -> None:
    request = asked(system=system)
    assert request.messages[0] == {"role": "system", "content": "Rhyme.\nAlways."}


def test_system_among_the_messages() -> None:
    messages = [{"role": "system", "content": "Rhyme."}, USER]
    assert asked(messages=messages).messages == tuple(messages)


def test_turns_of_one_side_are_one() -> None:
    blocks = [
        {"type": "text", "text": "Two", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "Three"},
    ]
    request = asked(
        messages=[{"role": "user", "content": "One"}, {"role": "user", "content": blocks}]
    )
    assert request.messages[1:] == ({"role": "user", "content": "One\nTwo\nThree"},)


def test_conversation_with_tools() -> None:
    messages = [
        USER,
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "x"},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "So:"},
                {"type": "tool_use", "id": "a", "name": "weather", "input": {"city": "Oslo"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "a",
                    "content": [{"type": "text", "text": "rain"}],
                },
                {"type": "tool_result", "tool_use_id": "b", "content": "lost", "is_error": True},
                {"type": "tool_result", "tool_use_id": "c"},
                {"type": "text", "text": "And now?"},
            ],
        },
    ]
    request = asked(messages=messages, tools=[WEATHER])
    assert request.messages[2:] == (
        {
            "role": "assistant",
            "content": "So:",
            "reasoning_content": "Hm.",
            "tool_calls": [
                {
                    "id": "a",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"city":"Oslo"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "a", "content": "rain"},
        {"role": "tool", "tool_call_id": "b", "content": "Error: lost"},
        {"role": "tool", "tool_call_id": "c", "content": ""},
        {"role": "user", "content": "And now?"},
    )
    assert request.tools == (
        {"name": "weather", "description": "Tells it", "parameters": WEATHER["input_schema"]},
    )


@pytest.mark.parametrize(
    ("choice", "expected", "parallel"),
    [
        (None, "auto", True),
        ({"type": "auto"}, "auto", True),
        ({"type": "any"}, "required", True),
        ({"type": "none"}, "none", True),
        ({"type": "tool", "name": "weather"}, "function:weather", True),
        ({"type": "any", "disable_parallel_tool_use": True}, "required", False),
    ],
)
def test_tool_choice(choice: dict[str, Any] | None, expected: str, parallel: bool) -> None:
    request = asked(tools=[WEATHER], tool_choice=choice)
    assert (request.tool_choice, request.parallel_tool_calls) == (expected, parallel)


@pytest.mark.parametrize(("stream", "whole"), [(None, True), (False, True), (True, False)])
def test_calls_are_told_whole_where_nothing_is_streamed(stream: bool | None, whole: bool) -> None:
    assert asked(stream=stream).whole_calls == whole


def test_form_of_the_answer() -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    wanted = {"effort": "low", "format": {"type": "json_schema", "schema": schema}}
    assert "age" in (asked(output_config=wanted).grammar or "")
    assert asked(output_config={"effort": "low"}).grammar is None


def test_count_tokens() -> None:
    engine = scripted([Tokens((1, 2, 3))])
    body = {"model": "pack", "messages": [USER], "system": "Rhyme.", "tools": [WEATHER]}
    response = send(engine, "POST", f"{MESSAGES}/count_tokens", json=body)
    assert response.json() == {"input_tokens": 3}
    (request,) = engine.requests
    assert isinstance(request, TokenizeRequest)
    assert request.messages == ({"role": "system", "content": "Rhyme."}, USER)
    assert [tool["name"] for tool in request.tools] == ["weather"]
    assert request.template_arguments == {"enable_thinking": False}


# What is refused.


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA"}}


@pytest.mark.parametrize(
    ("fields", "start"),
    [
        ({"model": 1}, "model: "),
        ({"messages": []}, "messages: must not be empty"),
        ({"messages": [{"role": "robot", "content": "Hi"}]}, "messages[0].role: "),
        ({"messages": [USER, {"role": "assistant", "content": "I"}]}, "messages[1].role: "),
        ({"messages": [{"role": "user", "content": [{"type": "x"}]}]}, "messages[0].content[0]"),
        (
            {"messages": [{"role": "user", "content": [IMAGE]}]},
            "messages[0].content[0]: this model reads text only",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "tool_result", "tool_use_id": "a", "content": [IMAGE]}
                        ],
                    }
                ]
            },
            "messages[0].content[0].content[0]: this model reads text only",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}],
                    }
                ]
            },
            "messages[0].content[0]: ",
        ),
        (
            {
                "messages": [
                    {
                        "role": "assistant",
                        "content": [{"type": "tool_result", "tool_use_id": "a"}],
                    },
                    USER,
                ]
            },
            "messages[0].content[0]: ",
        ),
        ({"max_tokens": 0}, "max_tokens "),
        ({"temperature": 11}, "temperature "),
        ({"top_k": 0.5}, "top_k: "),
        ({"stop_sequences": ["x"] * 17}, "stop_sequences: "),
        ({"stop_sequences": [""]}, "stop_sequences: "),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema: "),
        ({"tools": [WEATHER, WEATHER]}, "tools[1].name: "),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type: "),
        ({"tool_choice": {"type": "any"}}, "tool_choice: "),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice.name: "),
        ({"thinking": {"type": "deep"}}, "thinking.type: "),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"type": "x"}}}},
            "output_config.format.schema: ",
        ),
    ],
)
def test_errors_name_the_field(fields: dict[str, Any], start: str) -> None:
    response = message(scripted(), **fields)
    kind, text = error_of(response)
    assert (response.status_code, kind) == (400, "invalid_request_error")
    assert text.startswith(start)


def test_limit_is_required() -> None:
    response = send(scripted(), "POST", MESSAGES, json={"model": "pack", "messages": [USER]})
    assert response.status_code == 400
    assert "max_tokens" in error_of(response)[1]


def test_unknown_model() -> None:
    response = message(scripted(), model="other")
    kind, text = error_of(response)
    assert (response.status_code, kind) == (404, "not_found_error")
    assert "other" in text


def test_unknown_path() -> None:
    response = send(scripted(), "GET", f"{MESSAGES}/batches")
    assert (response.status_code, error_of(response)[0]) == (404, "not_found_error")


@pytest.mark.parametrize(
    ("failure", "status", "expected"),
    [
        ("too-long", 400, "invalid_request_error"),
        ("busy", 503, "overloaded_error"),
        ("timeout", 503, "timeout_error"),
        ("engine", 503, "api_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_failure_before_the_answer(failure: str, status: int, expected: str, stream: bool) -> None:
    response = message(scripted([Failed(failure, "It failed")]), stream=stream)
    assert (response.status_code, *error_of(response)) == (status, expected, "It failed")
    assert ("retry-after" in response.headers) == (failure in ("busy", "timeout"))


# The real client.


def test_every_kind_of_thinking_that_the_client_knows() -> None:
    types = pytest.importorskip("anthropic.types", reason="the anthropic client is not installed")
    kinds = [
        get_args(get_type_hints(kind)["type"])[0] for kind in get_args(types.ThinkingConfigParam)
    ]
    assert len(kinds) >= 3
    for kind in kinds:
        asked(thinking={"type": kind, "budget_tokens": 1024})


def test_client_library_waits_for_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    anthropic = pytest.importorskip("anthropic", reason="the anthropic client is not installed")
    monkeypatch.setattr(bridge, "BEGIN_SECONDS", 0.05)
    monkeypatch.setattr(bridge, "LOOK_SECONDS", 0.02)
    common: dict[str, Any] = {"model": "pack", "max_tokens": 50, "messages": [USER]}
    engine = scripted([0.3, *HELLO], [0.3, Failed("engine", "It failed")])
    with (
        serving(engine) as url,
        anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as client,
    ):
        with client.messages.stream(**common) as stream:
            assert "".join(stream.text_stream) == "Hello"
        with (
            pytest.raises(anthropic.APIStatusError, match="It failed"),
            client.messages.stream(**common) as stream,
        ):
            stream.get_final_message()


def test_client_library() -> None:
    anthropic = pytest.importorskip("anthropic", reason="the anthropic client is not installed")
    engine = scripted(HELLO, HELLO, CALLS, CALLS, THOUGHT, [Tokens((1, 2, 3))])
    common: dict[str, Any] = {"model": "pack", "max_tokens": 50, "messages": [USER]}
    with (
        serving(engine) as url,
        anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as client,
    ):
        whole = client.messages.create(**common)
        assert (whole.content[0].text, whole.stop_reason) == ("Hello", "end_turn")
        assert whole.usage.output_tokens == 2
        with client.messages.stream(**common) as stream:
            assert "".join(stream.text_stream) == "Hello"
            assert stream.get_final_message().usage.output_tokens == 2
        called = client.messages.create(**common, tools=[WEATHER])
        assert called.content[1].input == {"city": "Oslo"}
        with client.messages.stream(**common, tools=[WEATHER]) as stream:
            final = stream.get_final_message()
        assert [block.type for block in final.content] == ["text", "tool_use", "tool_use"]
        assert (final.content[1].input, final.stop_reason) == ({"city": "Oslo"}, "tool_use")
        thinking = {"type": "enabled", "budget_tokens": 1024}
        with client.messages.stream(**common, thinking=thinking) as stream:
            thought, answer = stream.get_final_message().content
        assert (thought.thinking, answer.text) == ("Hm.", "Yes")
        assert client.messages.count_tokens(model="pack", messages=[USER]).input_tokens == 3
        with pytest.raises(anthropic.NotFoundError, match="other"):
            client.messages.create(**{**common, "model": "other"})
        with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
            client.messages.create(**{**common, "max_tokens": 0})
