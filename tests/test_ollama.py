from __future__ import annotations

import dataclasses
import json
import time
from datetime import datetime
from typing import Any

import httpx
import pytest
from engine_fixtures import ScriptedEngine
from face_fixtures import USAGE, asked_of, scripted, send, send_to, serving, state_of

from runtime_stub.engine.messages import (
    ChoiceEnd,
    Embeddings,
    EmbedRequest,
    Event,
    Failed,
    Finished,
    PromptRead,
    Reasoning,
    Request,
    Sampling,
    Status,
    Text,
    TokenLogprob,
    ToolCall,
)
from runtime_stub.server import bridge, streaming

HELLO: list[Event | float] = [PromptRead(10, 4), Text("Hel"), Text("lo"), Finished("stop", USAGE)]
THOUGHT: list[Event | float] = [Reasoning("Hm."), Text("Yes"), Finished("stop", USAGE)]
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
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells it",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def chat(engine: ScriptedEngine, **fields: Any) -> httpx.Response:
    document = {"model": "pack", "messages": [{"role": "user", "content": "Hi"}], **fields}
    return send(engine, "POST", "/api/chat", json=document)


def generate(engine: ScriptedEngine, **fields: Any) -> httpx.Response:
    return send(engine, "POST", "/api/generate", json={"model": "pack", "prompt": "Hi", **fields})


def lines_of(response: httpx.Response) -> list[Any]:
    assert response.headers["content-type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in response.text.splitlines()]


def error_of(response: httpx.Response) -> str:
    document = response.json()
    assert list(document) == ["error"]
    return str(document["error"])


def asked(**fields: Any) -> Request:
    engine = scripted(HELLO)
    response = chat(engine, stream=False, **fields)
    assert response.status_code == 200, response.text
    return asked_of(engine)


# Chats.


@pytest.mark.parametrize("stream", [True, False])
def test_calls_are_told_whole(stream: bool) -> None:
    engine = scripted(HELLO)
    chat(engine, stream=stream)
    assert asked_of(engine).whole_calls


def test_whole_chat() -> None:
    document = chat(scripted(HELLO), stream=False).json()
    assert document["message"] == {"role": "assistant", "content": "Hello"}
    assert (document["model"], document["done"], document["done_reason"]) == ("pack", True, "stop")
    assert datetime.fromisoformat(document["created_at"].replace("Z", "+00:00")).tzinfo
    assert (document["prompt_eval_count"], document["eval_count"]) == (10, 2)
    assert document["prompt_eval_duration"] == 100_000_000
    assert document["eval_duration"] == 200_000_000
    assert document["total_duration"] > 0
    assert document["load_duration"] >= 0
    assert "logprobs" not in document


def test_chat_is_streamed_unless_refused() -> None:
    first, second, last = lines_of(chat(scripted(HELLO)))
    assert [line["message"]["content"] for line in (first, second, last)] == ["Hel", "lo", ""]
    assert [line["done"] for line in (first, second, last)] == [False, False, True]
    assert "done_reason" not in first
    assert "total_duration" not in first
    assert last["done_reason"] == "stop"
    assert last["eval_count"] == 2


def test_what_the_engine_is_asked() -> None:
    request = asked(options={"temperature": 0.5, "top_k": 3, "stop": ["END"], "num_predict": 9})
    assert request.messages == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
    )
    assert request.sampling == Sampling(temperature=0.5, top_k=3, seed=7)
    assert (request.max_tokens, request.stop, request.grammar) == (9, ("END",), None)
    assert request.template_arguments == {}


def test_own_system_message_replaces_the_packs() -> None:
    messages = [{"role": "system", "content": "Rhyme."}, {"role": "user", "content": "Hi"}]
    assert asked(messages=messages).messages == tuple(messages)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"mirostat": 2, "mirostat_tau": 4, "mirostat_eta": 0.2}, {"mirostat": 2}),
        ({"typical_p": 0.5, "min_p": 0.1, "top_p": 1}, {"typical_p": 0.5, "top_p": 1.0}),
        ({"repeat_penalty": 1.1, "repeat_last_n": -1}, {"repeat_last_n": -1}),
        ({"presence_penalty": 1, "frequency_penalty": 2}, {"frequency_penalty": 2.0}),
        ({"seed": 3}, {"seed": 3}),
        ({"top_k": 40.0, "num_ctx": 2048.0}, {"top_k": 40}),
        ({"seed": -1}, {"seed": None}),
        ({"seed": -1.0, "top_k": -1}, {"seed": None, "top_k": -1}),
        ({"seed": -2}, {"seed": 2**32 - 2}),
        ({"seed": 2**40 + 3}, {"seed": 3}),
        ({"num_ctx": 2048, "num_gpu": 1, "use_mmap": True, "numa": False}, {"seed": 7}),
        (None, {"temperature": 0.25}),
    ],
)
def test_options(options: dict[str, Any] | None, expected: dict[str, Any]) -> None:
    sampling = asked(options=options).sampling
    assert {name: getattr(sampling, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("said", "limit"), [(5, 5), (0, None), (-1, None), (-2, None), (None, 100)]
)
def test_num_predict(said: int | None, limit: int | None) -> None:
    assert asked(options={"num_predict": said}).max_tokens == limit


@pytest.mark.parametrize("value", [0, -1, 3.5, "5m", "-1", "1h30m", "-1m", "1.5h", "300ms"])
def test_keep_alive_is_accepted(value: float | str) -> None:
    asked(keep_alive=value)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0, 0.0),
        (3.5, 3.5),
        ("300", 300.0),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("1.5h", 5400.0),
        ("300ms", 0.3),
        (-1, None),
        ("-1", None),
        ("-1m", None),
        (1e300, None),
    ],
)
def test_keep_alive_tells_the_engine(value: float | str, seconds: float | None) -> None:
    engine = scripted(HELLO)
    chat(engine, keep_alive=value)
    assert engine.told == [pytest.approx(seconds)]


class Leaving(ScriptedEngine):
    """Notes how many requests had come when it was told to leave."""

    def unload_after(self, seconds: float | None) -> None:
        super().unload_after((seconds, len(self.requests)))  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
def test_the_model_does_not_leave_before_the_request_has_come(path: str) -> None:
    engine = Leaving(HELLO, facts=scripted().facts)
    body = {"messages": [{"role": "user", "content": "Hi"}], "prompt": "Hi"}
    send(engine, "POST", path, json={"model": "pack", "keep_alive": 0, **body})
    assert engine.told == [(0.0, 1)]


def test_a_request_that_is_refused_says_nothing_of_the_model() -> None:
    engine = scripted()
    assert chat(engine, keep_alive=0, options={"top_p": 2}).status_code == 400
    assert engine.told == []


def test_without_keep_alive_nothing_is_told() -> None:
    engine = scripted(HELLO)
    chat(engine)
    assert engine.told == []


@pytest.mark.parametrize(
    ("think", "arguments"),
    [
        (True, {"enable_thinking": True}),
        (False, {"enable_thinking": False}),
        ("high", {"enable_thinking": True, "reasoning_effort": "high"}),
    ],
)
def test_think(think: bool | str, arguments: dict[str, Any]) -> None:
    assert asked(think=think).template_arguments == arguments


def test_thinking_in_the_reply() -> None:
    message = chat(scripted(THOUGHT), stream=False, think=True).json()["message"]
    assert message == {"role": "assistant", "content": "Yes", "thinking": "Hm."}
    first, second, _last = lines_of(chat(scripted(THOUGHT)))
    assert first["message"] == {"role": "assistant", "content": "", "thinking": "Hm."}
    assert second["message"] == {"role": "assistant", "content": "Yes"}


def test_thinking_that_is_not_wanted_is_left_out() -> None:
    message = chat(scripted(THOUGHT), stream=False, think=False).json()["message"]
    assert message == {"role": "assistant", "content": "Yes"}
    assert len(lines_of(chat(scripted(THOUGHT), think=False))) == 2


def test_json_format() -> None:
    assert "root ::=" in (asked(format="json").grammar or "")
    assert asked(format="").grammar is None
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    assert "age" in (asked(format=schema).grammar or "")


def test_tools() -> None:
    request = asked(tools=[WEATHER])
    assert request.tools == (WEATHER["function"],)
    assert request.tool_choice == "auto"


def test_two_tools_of_one_name() -> None:
    response = chat(scripted(), stream=False, tools=[WEATHER, WEATHER])
    assert response.status_code == 400
    assert error_of(response) == "tools[1].function.name: 'weather' is there twice"


def test_tool_calls_in_the_reply() -> None:
    message = chat(scripted(CALLS), stream=False, tools=[WEATHER]).json()["message"]
    functions = [call["function"] for call in message["tool_calls"]]
    assert functions == [
        {"index": 0, "name": "weather", "arguments": {"city": "Oslo"}},
        {"index": 1, "name": "clock", "arguments": {}},
    ]
    assert [call["id"] for call in message["tool_calls"]] == ["abc", "def"]
    assert message["content"] == "So:"


def test_tool_calls_are_streamed_one_by_one() -> None:
    text, one, two, last = lines_of(chat(scripted(CALLS), tools=[WEATHER]))
    assert text["message"]["content"] == "So:"
    assert one["message"]["tool_calls"][0]["function"]["arguments"] == {"city": "Oslo"}
    assert two["message"]["tool_calls"][0]["function"]["index"] == 1
    assert (last["done"], last["done_reason"]) == (True, "stop")


def test_call_that_is_cut_off_is_left_out() -> None:
    events: list[Event | float] = [ToolCall(0, "a", "f", '{"x": '), Finished("length", USAGE)]
    document = chat(scripted(events), stream=False, tools=[WEATHER]).json()
    assert document["message"] == {"role": "assistant", "content": ""}
    assert document["done_reason"] == "length"
    assert [line["done"] for line in lines_of(chat(scripted(events)))] == [True]


def test_earlier_calls_get_ids_and_results_find_them() -> None:
    calls = [
        {"function": {"name": "weather", "arguments": {"city": "Oslo"}}},
        {"function": {"name": "clock", "arguments": {}}},
        {"id": "mine", "function": {"name": "clock"}},
    ]
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "tool_calls": calls, "thinking": "Hm."},
        {"role": "tool", "tool_name": "clock", "content": "noon"},
        {"role": "tool", "content": "rain"},
        {"role": "tool", "tool_call_id": "mine", "content": "one"},
        {"role": "tool", "tool_name": "lost", "content": "?"},
    ]
    _system, _user, assistant, *results = asked(messages=messages).messages
    assert assistant["reasoning_content"] == "Hm."
    assert [call["id"] for call in assistant["tool_calls"]] == ["call_1_0", "call_1_1", "mine"]
    assert json.loads(assistant["tool_calls"][0]["function"]["arguments"]) == {"city": "Oslo"}
    assert [(result.get("tool_call_id"), result["name"]) for result in results] == [
        ("call_1_1", "clock"),
        ("call_1_0", "weather"),
        ("mine", "clock"),
        (None, "lost"),
    ]


def test_logprobs() -> None:
    token = TokenLogprob("Hi", b"Hi", -0.5, (("Hi", b"Hi", -0.5), ("Ho", b"Ho", -1.5)))
    events: list[Event | float] = [Text("Hi", logprobs=(token,)), Finished("stop", USAGE)]
    engine = scripted(events)
    document = chat(engine, stream=False, logprobs=True, top_logprobs=2).json()
    assert asked_of(engine).logprobs == 2
    (entry,) = document["logprobs"]
    assert (entry["token"], entry["logprob"], entry["bytes"]) == ("Hi", -0.5, [72, 105])
    assert [top["token"] for top in entry["top_logprobs"]] == ["Hi", "Ho"]


# Prompts.


def test_whole_answer_to_a_prompt() -> None:
    engine = scripted(HELLO)
    document = generate(engine, stream=False, system="Rhyme.", context=[1, 2]).json()
    assert (document["response"], document["done_reason"]) == ("Hello", "stop")
    assert asked_of(engine).messages == (
        {"role": "system", "content": "Rhyme."},
        {"role": "user", "content": "Hi"},
    )


def test_streamed_answer_to_a_prompt() -> None:
    lines = lines_of(generate(scripted(THOUGHT)))
    assert [line["response"] for line in lines] == ["", "Yes", ""]
    assert lines[0]["thinking"] == "Hm."
    assert lines[-1]["done"]


def test_raw_prompt() -> None:
    engine = scripted(HELLO)
    generate(engine, raw=True, prompt="Once", options={"num_predict": 3})
    request = asked_of(engine)
    assert (request.text, request.messages, request.max_tokens) == ("Once", (), 3)


def test_loading() -> None:
    engine = scripted()
    document = send(engine, "POST", "/api/generate", json={"model": "pack"}).json()
    assert (document["response"], document["done"], document["done_reason"]) == ("", True, "load")
    assert engine.told == ["load"]
    document = chat(engine, messages=[], keep_alive=0).json()
    assert document["message"] == {"role": "assistant", "content": ""}
    assert (document["done"], document["done_reason"]) == (True, "unload")
    assert engine.told[1:] == ["unload"]
    assert send(engine, "GET", "/api/ps").json() == {"models": []}
    document = chat(engine, messages=[]).json()
    assert document["done_reason"] == "load"
    assert engine.status.state == "ready"
    assert engine.requests == []


def test_loading_what_has_failed() -> None:
    engine = ScriptedEngine(status=Status("failed", message="no memory"))
    response = chat(engine, messages=[])
    assert (response.status_code, error_of(response)) == (503, "no memory")


def test_loading_that_takes_too_long() -> None:
    engine = ScriptedEngine(status=Status("loading"))
    state = dataclasses.replace(state_of(engine), timeout=0.1)
    body = {"model": "pack", "keep_alive": 60}
    response = send_to(state, "POST", "/api/generate", json=body)
    assert (response.status_code, response.headers["retry-after"]) == (503, "2")
    assert "in time" in error_of(response)
    assert engine.told == [60.0, "load"]


# Vectors.


def test_embed() -> None:
    engine = scripted([Embeddings(((0.6, 0.8), (1.0, 0.0)), 5)])
    body = {"model": "pack", "input": ["a", "b"]}
    document = send(engine, "POST", "/api/embed", json=body).json()
    assert document["embeddings"] == [[0.6, 0.8], [1.0, 0.0]]
    assert document["prompt_eval_count"] == 5
    (request,) = engine.requests
    assert isinstance(request, EmbedRequest)
    assert (request.texts, request.normalise) == (("a", "b"), True)


def test_embed_with_fewer_dimensions() -> None:
    engine = scripted([Embeddings(((0.6, 0.0, 0.8),), 5)])
    body = {"model": "pack", "input": "a", "dimensions": 2}
    document = send(engine, "POST", "/api/embed", json=body).json()
    assert document["embeddings"] == [[1.0, 0.0]]


@pytest.mark.parametrize(
    ("fields", "truncates"), [({}, True), ({"truncate": True}, True), ({"truncate": False}, False)]
)
def test_embed_cuts_what_is_too_long(fields: dict[str, bool], *, truncates: bool) -> None:
    """Unless that is not wanted."""
    engine = scripted([Embeddings(((0.6, 0.8),), 5)])
    send(engine, "POST", "/api/embed", json={"model": "pack", "input": "a", **fields})
    assert engine.requests == [EmbedRequest(("a",), truncate=truncates)]


@pytest.mark.parametrize("fields", [{"input": []}, {"input": ""}, {"input": None}, {}])
def test_embed_nothing(fields: dict[str, Any]) -> None:
    response = send(scripted(), "POST", "/api/embed", json={"model": "pack", **fields})
    assert (response.status_code, response.json()["embeddings"]) == (200, [])


def test_embeddings() -> None:
    engine = scripted([Embeddings(((3.0, 4.0),), 2)])
    body = {"model": "pack", "prompt": "a"}
    assert send(engine, "POST", "/api/embeddings", json=body).json() == {"embedding": [3.0, 4.0]}
    (request,) = engine.requests
    assert isinstance(request, EmbedRequest)
    assert (request.texts, request.normalise) == (("a",), False)
    body = {"model": "pack", "prompt": ""}
    assert send(engine, "POST", "/api/embeddings", json=body).json() == {"embedding": []}


# Models.


def test_tags() -> None:
    (model,) = send(scripted(), "GET", "/api/tags").json()["models"]
    assert (model["name"], model["model"], model["size"]) == ("pack:latest", "pack:latest", 800)
    assert model["digest"] == "ab" * 32
    assert model["modified_at"] == "1970-01-01T00:00:05.000000Z"
    assert model["details"] == {
        "parent_model": "",
        "format": "gguf",
        "family": "llama",
        "families": ["llama"],
        "parameter_size": "1.2B",
        "quantization_level": "Q4_0",
    }


def test_show() -> None:
    document = send(scripted(), "POST", "/api/show", json={"model": "pack:latest"}).json()
    assert document["model_info"] == {
        "general.architecture": "llama",
        "general.parameter_count": 1_235_814_432,
        "llama.context_length": 8192,
    }
    assert document["capabilities"] == ["completion", "tools"]
    assert document["system"] == "Be brief."
    assert document["license"] == "apache-2.0"
    assert ["num_ctx", "4096"] in [line.split() for line in document["parameters"].splitlines()]


QWEN = "{% for m in messages %}{{ m.content.split('</think>')[-1] }}{% endfor %}"


@pytest.mark.parametrize(
    ("details", "template", "capabilities"),
    [
        ({}, None, ["completion", "tools"]),
        ({"reasoning": True}, None, ["completion", "tools", "thinking"]),
        ({"reasoning": True}, "{{ messages }}", ["completion", "tools"]),
        ({"reasoning": False}, QWEN, ["completion", "tools", "thinking"]),
        ({"embedding": True, "reasoning": False}, None, ["embedding"]),
    ],
)
@pytest.mark.parametrize("loaded", [True, False])
def test_capabilities(
    details: dict[str, Any], template: str | None, capabilities: list[str], loaded: bool
) -> None:
    engine = scripted()
    if not loaded:
        engine._facts = None
    state = state_of(engine)
    served = dataclasses.replace(state.models[0], details=details, template=template)
    state = dataclasses.replace(state, models=(served,))
    document = send_to(state, "POST", "/api/show", json={"model": "pack"}).json()
    assert document["capabilities"] == capabilities


@pytest.mark.parametrize("body", [{"name": "pack"}, {"model": "", "name": "pack:latest"}])
def test_show_by_the_older_name_of_the_field(body: dict[str, str]) -> None:
    assert send(scripted(), "POST", "/api/show", json=body).status_code == 200
    response = send(scripted(), "POST", "/api/show", json={**body, "name": "other"})
    assert (response.status_code, "'other' not found" in error_of(response)) == (404, True)


@pytest.mark.parametrize("body", [{}, {"model": "", "name": ""}])
def test_show_of_no_model(body: dict[str, str]) -> None:
    response = send(scripted(), "POST", "/api/show", json=body)
    assert (response.status_code, error_of(response)[:7]) == (400, "model: ")


def test_loaded_models() -> None:
    (model,) = send(scripted(), "GET", "/api/ps").json()["models"]
    assert (model["name"], model["context_length"], model["size_vram"]) == ("pack:latest", 4096, 0)
    assert model["expires_at"].startswith("9999")
    engine = scripted()
    engine.unloads_in = 60.0
    (model,) = send(engine, "GET", "/api/ps").json()["models"]
    left = datetime.fromisoformat(model["expires_at"].replace("Z", "+00:00")).timestamp()
    assert 0 < left - time.time() <= 60
    engine._facts = None
    assert send(engine, "GET", "/api/ps").json() == {"models": []}


def test_version_and_sign_of_life() -> None:
    version = send(scripted(), "GET", "/api/version").json()["version"]
    assert [int(part) for part in version.split(".")] >= [0, 6, 4]
    assert send(scripted(), "HEAD", "/").status_code == 200


@pytest.mark.parametrize("name", ["pack", "pack:latest"])
def test_model_is_called_as_the_client_calls_it(name: str) -> None:
    assert chat(scripted(HELLO), stream=False, model=name).json()["model"] == name


# What is refused.


@pytest.mark.parametrize(
    ("fields", "start"),
    [
        ({"model": 1}, "model: "),
        ({"messages": [{"role": "robot"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "images": ["AA"]}]}, "messages[0].images"),
        ({"options": {"top_k": "many"}}, "options.top_k"),
        ({"options": {"top_k": 0.5}}, "options: top_k"),
        ({"options": {"top_p": 2}}, "options.top_p"),
        ({"options": {"mirostat": 3}}, "options.mirostat"),
        ({"options": {"stop": ["x"] * 17}}, "options.stop"),
        ({"options": {"num_predict": 2**40}}, "options.num_predict"),
        ({"format": "yaml"}, "format"),
        ({"format": {"type": "nonsense"}}, "format"),
        ({"think": "hard"}, "think"),
        ({"keep_alive": "a while"}, "keep_alive"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"tools": [{"type": "shell", "function": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [{"function": {}}]}, "tools[0].function: Object missing required field `name`"),
    ],
)
def test_errors_name_the_field(fields: dict[str, Any], start: str) -> None:
    response = chat(scripted(), **fields)
    assert response.status_code == 400
    assert error_of(response).startswith(start)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"images": ["AA"]}, "images"),
        ({"template": "{{ .Prompt }}"}, "template"),
        ({"suffix": "end"}, "suffix"),
        ({"raw": True, "system": "x"}, "system"),
    ],
)
def test_prompts_that_are_refused(fields: dict[str, Any], named: str) -> None:
    response = generate(scripted(), **fields)
    assert response.status_code == 400
    assert error_of(response).startswith(f"{named}: ")


def test_dimensions_that_are_refused() -> None:
    body = {"model": "pack", "input": "a", "dimensions": 0}
    response = send(scripted(), "POST", "/api/embed", json=body)
    assert (response.status_code, "dimensions" in error_of(response)) == (400, True)


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate", "/api/show", "/api/embeddings"])
def test_unknown_model(path: str) -> None:
    response = send(scripted(), "POST", path, json={"model": "other"})
    assert response.status_code == 404
    assert error_of(response).startswith("model 'other' not found")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/pull"),
        ("POST", "/api/push"),
        ("POST", "/api/create"),
        ("POST", "/api/copy"),
        ("DELETE", "/api/delete"),
        ("POST", "/api/blobs/sha256:00"),
    ],
)
def test_what_a_pack_cannot_do(method: str, path: str) -> None:
    response = send(scripted(), method, path)
    assert response.status_code == 403
    assert "a pack can't" in error_of(response)


def test_unknown_path() -> None:
    response = send(scripted(), "GET", "/api/nothing")
    assert (response.status_code, "/api/nothing" in error_of(response)) == (404, True)


@pytest.mark.parametrize(
    ("kind", "status"), [("too-long", 400), ("busy", 503), ("timeout", 503), ("engine", 503)]
)
def test_failure_before_the_answer(kind: str, status: int) -> None:
    response = chat(scripted([Failed(kind, "It failed")]))
    assert (response.status_code, error_of(response)) == (status, "It failed")
    assert ("retry-after" in response.headers) == (kind in ("busy", "timeout"))


def test_failure_in_the_middle() -> None:
    piece, error = lines_of(chat(scripted([Text("a"), Failed("engine", "It failed")])))
    assert piece["message"]["content"] == "a"
    assert error == {"error": "It failed"}


# Streams without a word.


def test_idle_stream_is_kept_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "KEEP_ALIVE_SECONDS", 0.02)
    events: list[Event | float] = [PromptRead(1, 0), 0.1, *HELLO[1:]]
    first, *_rest, last = lines_of(chat(scripted(events)))
    assert (first["message"]["content"], first["done"], last["done"]) == ("", False, True)


def test_a_stream_begins_before_there_is_anything_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "BEGIN_SECONDS", 0.05)
    monkeypatch.setattr(bridge, "LOOK_SECONDS", 0.02)
    sign, *lines = lines_of(chat(scripted([0.3, *HELLO])))
    assert (sign["message"]["content"], sign["done"]) == ("", False)
    assert [line["message"]["content"] for line in lines] == ["Hel", "lo", ""]
    response = chat(scripted([0.3, Failed("timeout", "It failed")]))
    assert (response.status_code, lines_of(response)[-1]) == (200, {"error": "It failed"})


def test_hidden_thinking_keeps_the_stream_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "KEEP_ALIVE_SECONDS", 0.05)
    thoughts: list[Event | float] = [Reasoning("m"), 0.02]
    engine = scripted([PromptRead(10, 4), *thoughts * 15, *THOUGHT[2:]])
    first, *_rest = lines_of(chat(engine, think=False))
    assert first["message"] == {"role": "assistant", "content": ""}


# The real client.


def test_client_library() -> None:
    ollama = pytest.importorskip("ollama", reason="the ollama client is not installed")
    vector: list[Event | float] = [Embeddings(((0.6, 0.8),), 3)]
    engine = scripted(HELLO, HELLO, CALLS, THOUGHT, vector, vector)
    with serving(engine) as url, ollama.Client(host=url) as client:
        messages = [{"role": "user", "content": "Hi"}]
        whole = client.chat("pack", messages, options={"temperature": 0, "num_ctx": 2048})
        assert (whole.message.content, whole.eval_count) == ("Hello", 2)
        pieces = list(client.chat("pack", messages, stream=True))
        assert "".join(piece.message.content for piece in pieces) == "Hello"
        assert pieces[-1].done_reason == "stop"
        called = client.chat("pack", messages, tools=[WEATHER]).message.tool_calls
        assert called[0].function.arguments == {"city": "Oslo"}
        thought = client.generate("pack", "Hi", think=True)
        assert (thought.thinking, thought.response) == ("Hm.", "Yes")
        assert client.embed("pack", "a").embeddings == [[0.6, 0.8]]
        assert client.embeddings("pack", "a").embedding == [0.6, 0.8]
        assert [model.model for model in client.list().models] == ["pack:latest"]
        assert client.show("pack").modelinfo["general.architecture"] == "llama"
        assert client.ps().models[0].context_length == 4096
        assert client.generate("pack").done_reason == "load"
        with pytest.raises(ollama.ResponseError, match="not found") as missing:
            client.chat("other", messages)
        assert missing.value.status_code == 404
        with pytest.raises(ollama.ResponseError, match="a pack can't fetch"):
            client.pull("other")
