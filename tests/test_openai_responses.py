from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from engine_fixtures import ScriptedEngine
from face_fixtures import USAGE, scripted, send

from runtime_stub.engine.messages import (
    ChoiceEnd,
    Event,
    Failed,
    Finished,
    PromptRead,
    Reasoning,
    Request,
    Text,
    TokenLogprob,
    ToolCall,
)
from runtime_stub.server import bridge

PATH = "/v1/responses"
END: list[Event | float] = [ChoiceEnd("stop"), Finished("stop", USAGE)]
ANSWER: list[Event | float] = [PromptRead(10, 4), Text("Hel"), Text("lo"), *END]
EVERYTHING: list[Event | float] = [
    PromptRead(10, 4),
    Reasoning("hm"),
    Reasoning("!"),
    Text("Hi"),
    ToolCall(0, "call_1", "weather"),
    ToolCall(0, arguments='{"a": '),
    ToolCall(0, arguments="1}"),
    ToolCall(1, "call_2", "clock", "{}"),
    ChoiceEnd("tool_calls"),
    Finished("tool_calls", USAGE),
]
WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object"}}


def respond(engine: ScriptedEngine, **fields: Any) -> httpx.Response:
    return send(engine, "POST", PATH, json={"input": "Hi", **fields})


def asked(**fields: Any) -> Request:
    engine = scripted(ANSWER)
    response = respond(engine, **fields)
    assert response.status_code == 200, response.text
    request: Request = engine.requests[0]
    return request


def stream(engine: ScriptedEngine, **fields: Any) -> list[dict[str, Any]]:
    response = respond(engine, stream=True, **fields)
    assert response.headers["content-type"].startswith("text/event-stream")
    documents = []
    for piece in response.text.split("\n\n")[:-1]:
        name, data = piece.split("\n")
        document = json.loads(data.removeprefix("data: "))
        assert name == f"event: {document['type']}"
        documents.append(document)
    assert [document["sequence_number"] for document in documents] == list(range(len(documents)))
    return documents


@pytest.mark.parametrize(("stream", "whole"), [(None, True), (False, True), (True, False)])
def test_calls_are_told_whole_where_nothing_is_streamed(stream: bool | None, whole: bool) -> None:
    assert asked(stream=stream).whole_calls == whole


def test_input_as_text() -> None:
    request = asked(instructions="Rhyme.", max_output_tokens=5, temperature=0.5)
    assert request.messages == (
        {"role": "system", "content": "Rhyme."},
        {"role": "user", "content": "Hi"},
    )
    assert (request.max_tokens, request.sampling.temperature) == (5, 0.5)
    assert asked().messages[0] == {"role": "system", "content": "Be brief."}


def test_input_as_items() -> None:
    items = [
        {"role": "user", "content": "a"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "b"}]},
        {"type": "reasoning", "id": "rs", "summary": [], "content": [
            {"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "id": "m", "status": "completed", "role": "assistant", "content": [
            {"type": "output_text", "text": "c", "annotations": []}]},
        {"type": "function_call", "call_id": "1", "name": "weather", "arguments": "{}"},
        {"type": "function_call", "call_id": "2", "name": "clock", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": "sunny"},
        {"type": "function_call_output", "call_id": "2", "output": [
            {"type": "input_text", "text": "noon"}]},
        {"type": "function_call", "call_id": "3", "name": "clock", "arguments": "{}"},
    ]  # fmt: skip

    def call(identity: str, name: str) -> dict[str, Any]:
        function = {"name": name, "arguments": "{}"}
        return {"id": identity, "type": "function", "function": function}

    assert asked(input=items).messages[1:] == (
        {"role": "user", "content": "a"},
        {"role": "user", "content": "b"},
        {
            "role": "assistant",
            "content": "c",
            "reasoning_content": "hm",
            "tool_calls": [call("1", "weather"), call("2", "clock")],
        },
        {"role": "tool", "tool_call_id": "1", "content": "sunny"},
        {"role": "tool", "tool_call_id": "2", "content": "noon"},
        {"role": "assistant", "content": "", "tool_calls": [call("3", "clock")]},
    )


def test_tools() -> None:
    request = asked(tools=[WEATHER], tool_choice={"type": "function", "name": "weather"})
    told = {"name": "weather", "description": "", "parameters": {"type": "object"}}
    assert request.tools == (told,)
    assert request.tool_choice == "function:weather"


def test_formats() -> None:
    schema = {"type": "json_schema", "name": "x", "schema": {"const": "only"}}
    assert "only" in (asked(text={"format": schema}).grammar or "")
    assert asked(text={"format": {"type": "json_object"}}).grammar
    assert asked(text={"format": {"type": "text"}}).grammar is None


def test_reasoning_and_logprobs() -> None:
    request = asked(reasoning={"effort": "high"}, include=["message.output_text.logprobs"])
    assert request.template_arguments == {"enable_thinking": True, "reasoning_effort": "high"}
    assert request.logprobs == 0
    assert asked(top_logprobs=3).logprobs == 3
    assert asked(top_logprobs=0).logprobs is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": []}, "input"),
        ({"input": 1}, "input"),
        ({"input": [1]}, "input[0]"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
         "input[0].content[0].type"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "c"}, "conversation"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"prompt_cache_options": {"prewarm": True}}, "prompt_cache_options.prewarm"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [WEATHER, WEATHER]}, "tools[1].name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"text": {"format": {"type": "json_schema", "schema": {"type": 1}}}},
         "text.format.schema"),
        ({"prompt": {"id": "x"}}, "prompt"),
    ],
)  # fmt: skip
def test_wrong_field_is_named(fields: dict[str, Any], param: str) -> None:
    response = respond(scripted(), **fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_fields_without_effect() -> None:
    assert asked() == asked(
        background=False, context_management=[], max_tool_calls=3, metadata={"a": "b"},
        prompt_cache_key="k", prompt_cache_retention="24h", safety_identifier="x",
        prompt_cache_options={"mode": "explicit", "ttl": "12h", "prewarm": False},
        service_tier="auto", store=True, stream_options=None, truncation="disabled", user="me",
    )  # fmt: skip


def test_the_real_client_finds_all_that_it_needs() -> None:
    types = pytest.importorskip("openai.types.responses", reason="openai is not installed")
    types.Response.model_validate(respond(scripted(ANSWER)).json())
    types.Response.model_validate(respond(scripted(EVERYTHING)).json())


def test_whole_answer() -> None:
    document = respond(scripted(ANSWER), metadata={"a": "b"}, store=True).json()
    assert document.pop("id").startswith("resp_")
    assert document.pop("created_at") > 0
    (message,) = document.pop("output")
    assert message.pop("id").startswith("msg_")
    assert message == {
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}],
    }
    assert document == {
        "object": "response",
        "status": "completed",
        "model": "pack",
        "error": None,
        "incomplete_details": None,
        "usage": {
            "input_tokens": 10,
            "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
            "output_tokens": 2,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 12,
        },
        "instructions": None,
        "max_output_tokens": None,
        "metadata": {"a": "b"},
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": False,
        "temperature": 0.25,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 0.95,
        "truncation": "disabled",
        "background": False,
    }


def test_whole_answer_with_everything() -> None:
    output = respond(scripted(EVERYTHING), tools=[WEATHER]).json()["output"]
    assert [item["type"] for item in output] == [
        "reasoning",
        "message",
        "function_call",
        "function_call",
    ]
    assert output[0]["content"] == [{"type": "reasoning_text", "text": "hm!"}]
    assert (output[2]["call_id"], output[2]["arguments"]) == ("call_1", '{"a": 1}')
    assert (output[3]["name"], output[3]["arguments"]) == ("clock", "{}")
    assert {item["status"] for item in output} == {"completed"}


def test_stream() -> None:
    told = stream(scripted(ANSWER))
    assert [document["type"] for document in told] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert told[0]["response"]["status"] == "in_progress"
    added = told[2]
    assert added["item"]["content"] == []
    assert (added["output_index"], added["item"]["status"]) == (0, "in_progress")
    identity = added["item"]["id"]
    assert all(document["item_id"] == identity for document in told[3:8])
    assert [document["delta"] for document in told[4:6]] == ["Hel", "lo"]
    assert told[6]["text"] == "Hello"
    assert told[8]["item"]["content"][0]["text"] == "Hello"
    final = told[-1]["response"]
    assert (final["status"], final["output"]) == ("completed", [told[8]["item"]])
    assert final["usage"]["total_tokens"] == 12
    assert final["id"] == told[0]["response"]["id"]


def test_stream_of_everything() -> None:
    told = stream(scripted(EVERYTHING), tools=[WEATHER])
    kinds = [document["type"].removeprefix("response.") for document in told]
    assert kinds == [
        "created", "in_progress",
        "output_item.added", "content_part.added",
        "reasoning_text.delta", "reasoning_text.delta", "reasoning_text.done",
        "content_part.done", "output_item.done",
        "output_item.added", "content_part.added", "output_text.delta", "output_text.done",
        "content_part.done", "output_item.done",
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.delta",
        "function_call_arguments.done", "output_item.done",
        "output_item.added", "function_call_arguments.delta",
        "function_call_arguments.done", "output_item.done",
        "completed",
    ]  # fmt: skip
    indexes = [document["output_index"] for document in told if "output_index" in document]
    assert indexes == sorted(indexes)
    assert indexes[-1] == 3
    done = told[kinds.index("function_call_arguments.done")]
    assert (done["name"], done["arguments"]) == ("weather", '{"a": 1}')
    assert told[-1]["response"]["output"] == [
        document["item"] for document in told if document["type"].endswith("output_item.done")
    ]


def test_answer_that_was_cut() -> None:
    script: list[Event | float] = [PromptRead(1, 0), Text("a"), Finished("length", USAGE)]
    document = respond(scripted(list(script))).json()
    assert document["status"] == "incomplete"
    assert document["incomplete_details"] == {"reason": "max_output_tokens"}
    assert document["output"][0]["status"] == "incomplete"
    assert stream(scripted(list(script)))[-1]["type"] == "response.incomplete"


def test_empty_answer() -> None:
    document = respond(scripted([PromptRead(1, 0), *END])).json()
    assert document["output"][0]["content"][0]["text"] == ""


def test_logprobs_in_the_stream() -> None:
    token = TokenLogprob("Hi", b"Hi", -0.5)
    engine = scripted([PromptRead(1, 0), Text("Hi", 0, (token,)), *END])
    told = stream(engine, top_logprobs=1)
    (logprob,) = told[4]["logprobs"]
    assert (logprob["token"], logprob["logprob"]) == ("Hi", -0.5)
    assert told[-1]["response"]["output"][0]["content"][0]["logprobs"] == [logprob]


def test_failure_in_the_stream() -> None:
    told = stream(scripted([PromptRead(1, 0), Text("a"), Failed("engine", "broken")]))
    assert told[-1]["type"] == "response.failed"
    assert told[-1]["response"]["error"] == {"code": "server_error", "message": "broken"}


def test_a_stream_begins_before_there_is_anything_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "BEGIN_SECONDS", 0.05)
    monkeypatch.setattr(bridge, "LOOK_SECONDS", 0.02)
    response = respond(scripted([0.3, Failed("timeout", "too slow")]), stream=True)
    assert response.status_code == 200
    *told, end = response.text.split("\n\n")[:-1]
    assert told[-1] == ": waiting"
    assert [piece.split("\n")[0] for piece in told[:-1]] == [
        "event: response.created",
        "event: response.in_progress",
    ]
    name, data = end.split("\n")
    assert name == "event: response.failed"
    assert json.loads(data.removeprefix("data: "))["response"]["error"]["message"] == "too slow"


@pytest.mark.parametrize("streamed", [False, True])
def test_failure_at_once(streamed: bool) -> None:
    response = respond(scripted([Failed("busy", "too many wait")]), stream=streamed)
    assert (response.status_code, response.headers["retry-after"]) == (503, "2")
