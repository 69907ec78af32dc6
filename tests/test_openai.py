from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest
from engine_fixtures import ScriptedEngine
from face_fixtures import USAGE, scripted, send

from runtime_stub.engine.messages import (
    ChoiceEnd,
    Detokenized,
    Event,
    Failed,
    Finished,
    PromptRead,
    Reasoning,
    Request,
    Sampling,
    Text,
    TokenizeRequest,
    TokenLogprob,
    Tokens,
    ToolCall,
)
from runtime_stub.engine.sampler import _DRY_BREAKERS
from runtime_stub.server.openai_requests import MAX_CHOICES
from runtime_stub.server.sampling import DRY_BREAKERS, MAX_STOPS

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello"}]
END: list[Event | float] = [ChoiceEnd("stop"), Finished("stop", USAGE)]
ANSWER: list[Event | float] = [PromptRead(10, 4), Text("Hi"), *END]
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}
CLOCK = {"type": "function", "function": {"name": "clock", "description": None, "strict": True}}
TOLD = {"name": "weather", "description": "", "parameters": WEATHER["function"]["parameters"]}  # type: ignore[index]
CALLS: list[Event | float] = [
    PromptRead(10, 4),
    ToolCall(0, "call_1", "weather", '{"pl'),
    ToolCall(0, arguments='ace": 1}'),
    ToolCall(1, "call_2", "clock", "{}"),
    ChoiceEnd("tool_calls"),
    Finished("tool_calls", USAGE),
]


def chat(engine: ScriptedEngine, **fields: Any) -> httpx.Response:
    return send(engine, "POST", CHAT, json={"messages": HELLO, **fields})


def asked(**fields: Any) -> Request:
    engine = scripted(ANSWER)
    response = chat(engine, **fields)
    assert response.status_code == 200, response.text
    request: Request = engine.requests[0]
    return request


def refused(**fields: Any) -> dict[str, Any]:
    response = chat(scripted(), **fields)
    assert response.status_code == 400, response.text
    error: dict[str, Any] = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    return error


def stream(engine: ScriptedEngine, path: str = CHAT, **fields: Any) -> list[Any]:
    body = fields if "prompt" in fields else {"messages": HELLO, **fields}
    response = send(engine, "POST", path, json={**body, "stream": True})
    assert response.status_code == 200, response.text
    *pieces, done = [piece.removeprefix("data: ") for piece in response.text.split("\n\n")][:-1]
    assert done == "[DONE]"
    return [json.loads(piece) for piece in pieces]


# What the engine is asked.


def test_defaults_of_the_pack() -> None:
    request = asked()
    assert request.messages == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
    )
    assert request.sampling == Sampling(temperature=0.25, seed=7)
    assert (request.max_tokens, request.stop, request.choices) == (100, (), 1)
    assert (request.logprobs, request.grammar, request.tools) == (None, None, ())
    assert (request.tool_choice, request.parallel_tool_calls) == ("auto", True)
    assert (request.reasoning, request.template_arguments) == (True, {})


def test_every_way_of_sampling() -> None:
    values: dict[str, Any] = {
        "temperature": 0, "top_p": 0.5, "top_k": 3, "min_p": 0.1, "frequency_penalty": -1,
        "presence_penalty": 1, "repeat_penalty": 1.1, "repeat_last_n": 5, "seed": 42,
        "typical_p": 0.9, "top_n_sigma": 1.5, "xtc_probability": 0.1, "xtc_threshold": 0.2,
        "dry_multiplier": 0.8, "dry_base": 1.5, "dry_allowed_length": 3, "dry_last_n": 64,
        "mirostat": 2, "mirostat_tau": 4, "mirostat_eta": 0.2,
    }  # fmt: skip
    request = asked(**values, logit_bias={"5": -100, "6": 1.5})
    assert request.sampling == Sampling(**values, logit_bias=((5, -100.0), (6, 1.5)))


def test_fields_without_effect() -> None:
    plain = asked()
    assert plain == asked(
        user="me", store=True, metadata={"a": "b"}, service_tier="auto", safety_identifier="x",
        prompt_cache_key="k", prediction={"type": "content"}, modalities=["text"],
        verbosity="low", model="pack", n=1, response_format={"type": "text"}, tools=[],
        tool_choice="auto", logprobs=False, stream=False,
        prompt_cache_retention="24h", prompt_cache_options={"mode": "explicit"},
        stream_options=None, top_logprobs=0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({}, 100),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6}, 6),
        ({"max_tokens": 5, "max_completion_tokens": 6}, 6),
        ({"max_tokens": None}, 100),
        ({"max_tokens": -1}, None),
        ({"max_completion_tokens": -1}, None),
        ({"max_tokens": 5, "max_completion_tokens": -1}, None),
        ({"max_tokens": -1, "max_completion_tokens": 6}, 6),
    ],
)
def test_limit(fields: dict[str, Any], limit: int | None) -> None:
    assert asked(**fields).max_tokens == limit


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (None, 7),
        (0, 0),
        (-1, None),
        (-2, 2**32 - 2),
        (2**32 - 1, 2**32 - 1),
        (2**32 + 5, 5),
        (2**63 - 1, 2**32 - 1),
        (-(2**63), 0),
        (10**30, 10**30 % 2**32),
    ],
)
def test_seed(said: int | None, meant: int | None) -> None:
    assert asked(seed=said).sampling.seed == meant


@pytest.mark.parametrize(
    ("fields", "meant"),
    [
        ({"top_k": -1}, {"top_k": -1}),
        ({"top_k": 0}, {"top_k": 0}),
        ({"repeat_last_n": -1}, {"repeat_last_n": -1}),
        ({"dry_last_n": -1}, {"dry_last_n": -1}),
        ({"dry_penalty_last_n": 9}, {"dry_last_n": 9}),
        ({"dry_penalty_last_n": 9, "dry_last_n": 8}, {"dry_last_n": 8}),
        ({"dry_sequence_breakers": ["*", ":", "\n", '"']}, {}),
    ],
)
def test_as_other_servers_write_it(fields: dict[str, Any], meant: dict[str, Any]) -> None:
    assert asked(**fields).sampling == Sampling(**{"temperature": 0.25, "seed": 7, **meant})


def test_what_ends_a_repetition_is_what_the_engine_says() -> None:
    assert tuple(text.decode() for text in _DRY_BREAKERS) == DRY_BREAKERS


@pytest.mark.parametrize("role", ["system", "developer"])
def test_own_system_prompt(role: str) -> None:
    own = [{"role": role, "content": "Mine."}, *HELLO]
    assert [message["content"] for message in asked(messages=own).messages] == ["Mine.", "Hello"]


def test_contents() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "b"}]
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "hm"},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        {"role": "assistant"},
        {"role": "user", "content": "d", "name": "Ann", "refusal": None, "extra": [1]},
    ]
    assert asked(messages=messages).messages == (
        {"role": "system", "content": "s"},
        {"role": "user", "content": "ab"},
        {"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": [call]},
        {"role": "tool", "content": "sunny", "tool_call_id": "c1"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "d", "name": "Ann"},
    )


@pytest.mark.parametrize(("kept", "fresh"), [(None, False), (True, False), (False, True)])
def test_what_was_read_before_need_not_be_used(kept: bool | None, fresh: bool) -> None:
    assert asked(cache_prompt=kept).fresh == fresh


@pytest.mark.parametrize(("stream", "whole"), [(None, True), (False, True), (True, False)])
def test_calls_are_told_whole_where_nothing_is_streamed(stream: bool | None, whole: bool) -> None:
    assert asked(stream=stream).whole_calls == whole


def test_tools() -> None:
    request = asked(tools=[WEATHER, CLOCK], parallel_tool_calls=False)
    nothing = {"type": "object", "properties": {}}
    assert request.tools == (
        {"name": "weather", "description": "", "parameters": nothing},
        {"name": "clock", "description": "", "parameters": nothing},
    )
    assert request.parallel_tool_calls is False


@pytest.mark.parametrize(
    ("choice", "meant"),
    [
        (None, "auto"),
        ("auto", "auto"),
        ("none", "none"),
        ("required", "required"),
        ({"type": "function", "function": {"name": "weather"}}, "function:weather"),
    ],
)
def test_tool_choice(choice: Any, meant: str) -> None:
    assert asked(tools=[WEATHER], tool_choice=choice).tool_choice == meant


@pytest.mark.parametrize(
    ("wanted", "piece"),
    [
        ({"type": "json_object"}, "root ::="),
        ({"type": "json_object", "schema": {"const": "only"}}, "only"),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": {"const": "it"}}}, "it"),
    ],
)
def test_response_format(wanted: Any, piece: str) -> None:
    grammar = asked(response_format=wanted).grammar
    assert grammar is not None
    assert piece in grammar


def test_grammar() -> None:
    grammar = 'root ::= "yes" | "no"'
    assert asked(grammar=grammar).grammar == grammar


def test_template_arguments() -> None:
    assert asked(reasoning_effort="low").template_arguments == {
        "enable_thinking": True,
        "reasoning_effort": "low",
    }
    assert asked(reasoning_effort="none", chat_template_kwargs={"a": 1}).template_arguments == {
        "enable_thinking": False,
        "a": 1,
    }
    assert asked(reasoning_format="none").reasoning is False


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "x"}, "messages"),
        ({"messages": [1]}, "messages[0]"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": 1, "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0].type",
        ),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": 11}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"top_k": 1.5}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"frequency_penalty": 100}, "frequency_penalty"),
        ({"repeat_penalty": -1}, "repeat_penalty"),
        ({"seed": "one"}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"repeat_last_n": -2}, "repeat_last_n"),
        ({"dry_penalty_last_n": -2}, "dry_penalty_last_n"),
        ({"dry_sequence_breakers": ["\n", "###"]}, "dry_sequence_breakers"),
        ({"dry_sequence_breakers": []}, "dry_sequence_breakers"),
        ({"typical_p": 2}, "typical_p"),
        ({"mirostat": 3}, "mirostat"),
        ({"dry_base": 0}, "dry_base"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"100": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"logit_bias": {"1_0": 1}}, "logit_bias"),
        ({"logit_bias": {str(n): 1 for n in range(2000)}}, "logit_bias"),
        ({"logit_bias": {"1": "x"}}, "logit_bias[...]"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -2}, "max_tokens"),
        ({"max_tokens": 2**31}, "max_tokens"),
        ({"max_completion_tokens": 0, "max_tokens": 5}, "max_completion_tokens"),
        ({"stop": 1}, "stop"),
        ({"stop": ["x"] * (MAX_STOPS + 1)}, "stop"),
        ({"stop": "x" * 2000}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stop": ["x", ""]}, "stop"),
        ({"n": 0}, "n"),
        ({"n": MAX_CHOICES + 1}, "n"),
        ({"stream": "yes"}, "stream"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"top_logprobs": 1}, "top_logprobs"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [WEATHER, WEATHER]}, "tools[1].function.name"),
        ({"tools": [{"function": {"name": ""}}]}, "tools[0].function.name"),
        ({"tools": [{"function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [WEATHER] * 129}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "x"}}},
            "tool_choice",
        ),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages"),
        ({"chat_template_kwargs": {"a": 1, "tools": []}}, "chat_template_kwargs.tools"),
        ({"chat_template_kwargs": {"self": 1}}, "chat_template_kwargs.self"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": 1}}}},
            "response_format.json_schema.schema",
        ),
        ({"response_format": {"type": "json_object"}, "grammar": "x"}, "grammar"),
        ({"grammar": "root ::= ("}, "grammar"),
        ({"modalities": ["audio"]}, "modalities[0]"),
        ({"no_such_field": 1}, "no_such_field"),
        ({"functions": []}, "functions"),
    ],
)
def test_wrong_field_is_named(fields: dict[str, Any], param: str) -> None:
    error = refused(**fields)
    assert error["param"] == param
    assert re.split(r"\W", param)[0] in error["message"]


def test_unknown_field_has_a_code() -> None:
    assert refused(no_such_field=1)["code"] == "unknown_parameter"


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
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
        b'{"messages": [{"role": "user", "content": "x"}], "temperature": 1e999}',
        b'{"messages": [{"role": "user", "content": "x"}], "seed": 1e3000}',
        b'{"messages": ' + b"[" * 200_000 + b"}",
        b'{"messages": [{"role": "user", "x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}]}",
        b'{"messages": [{"role": "user", "x": ' + b'{"a":' * 200_000 + b"}]}",
        b'{"chat_template_kwargs": {"x": ' + b'{"a":' * 200_000,
    ],
)
@pytest.mark.parametrize(
    "path", [CHAT, "/v1/completions", "/v1/responses", "/v1/embeddings", "/v1/rerank", "/tokenize"]
)
def test_bad_body(path: str, data: bytes) -> None:
    response = send(scripted(), "POST", path, content=data)
    assert response.status_code == 400
    assert response.json()["error"]["message"]


# What comes back.


def test_tool_calls() -> None:
    choice = chat(scripted(CALLS), tools=[WEATHER]).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"place": 1}'},
            },
            {"id": "call_2", "type": "function", "function": {"name": "clock", "arguments": "{}"}},
        ],
    }


def test_tool_calls_in_a_stream() -> None:
    chunks = stream(scripted(CALLS), tools=[WEATHER])
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas == [
        {"role": "assistant", "content": ""},
        {
            "tool_calls": [
                {
                    "index": 0,
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"pl'},
                }
            ]
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": 'ace": 1}'}}]},
        {
            "tool_calls": [
                {
                    "index": 1,
                    "id": "call_2",
                    "type": "function",
                    "function": {"name": "clock", "arguments": "{}"},
                }
            ]
        },
        {},
    ]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_reasoning() -> None:
    script: list[Event | float] = [PromptRead(1, 0), Reasoning("hm"), Reasoning("!"), *ANSWER[1:]]
    message = chat(scripted(list(script))).json()["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("hm!", "Hi")
    deltas = [chunk["choices"][0]["delta"] for chunk in stream(scripted(list(script)))]
    assert deltas[1:4] == [
        {"reasoning_content": "hm"},
        {"reasoning_content": "!"},
        {"content": "Hi"},
    ]


SEVERAL: list[Event | float] = [
    PromptRead(1, 0),
    Text("a", 1),
    Text("b", 0),
    ChoiceEnd("length", 1),
    ChoiceEnd("stop", 0),
    Finished("stop", USAGE),
]


def test_several_choices() -> None:
    engine = scripted(list(SEVERAL))
    choices = chat(engine, n=2).json()["choices"]
    assert engine.requests[0].choices == 2
    found = [(c["index"], c["message"]["content"], c["finish_reason"]) for c in choices]
    assert found == [(0, "b", "stop"), (1, "a", "length")]


def test_several_choices_in_a_stream() -> None:
    choices = [chunk["choices"][0] for chunk in stream(scripted(list(SEVERAL)), n=2)]
    assert [(c["index"], c["delta"].get("content"), c["finish_reason"]) for c in choices] == [
        (0, "", None),
        (1, "", None),
        (1, "a", None),
        (0, "b", None),
        (1, None, "length"),
        (0, None, "stop"),
    ]


def test_logprobs() -> None:
    token = TokenLogprob("Hi", b"Hi", -0.5, (("Hi", b"Hi", -0.5), ("\ufffd", b"\xc3", -2.0)))
    script: list[Event | float] = [PromptRead(1, 0), Text("Hi", 0, (token,)), *END]
    told = {
        "content": [
            {
                "token": "Hi",
                "logprob": -0.5,
                "bytes": [72, 105],
                "top_logprobs": [
                    {"token": "Hi", "logprob": -0.5, "bytes": [72, 105]},
                    {"token": "\ufffd", "logprob": -2.0, "bytes": [195]},
                ],
            }
        ],
        "refusal": None,
    }
    engine = scripted(list(script))
    assert chat(engine, logprobs=True, top_logprobs=2).json()["choices"][0]["logprobs"] == told
    assert engine.requests[0].logprobs == 2
    chunks = stream(scripted(list(script)), logprobs=True)
    assert [chunk["choices"][0]["logprobs"] for chunk in chunks] == [None, told, None]


def test_usage_in_a_stream() -> None:
    chunks = stream(scripted(ANSWER), stream_options={"include_usage": True})
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * 3
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == {
        "prompt_tokens": 10,
        "completion_tokens": 2,
        "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 4},
    }
    assert all("usage" not in chunk for chunk in stream(scripted(ANSWER)))


def test_answer_that_was_cancelled() -> None:
    script: list[Event | float] = [PromptRead(1, 0), Finished("cancelled", USAGE)]
    choice = chat(scripted(script)).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("", "stop")


# Models and tokens.


@pytest.mark.parametrize("name", ["pack", "pack:latest", "default"])
def test_one_model(name: str) -> None:
    document = send(scripted(), "GET", f"/v1/models/{name}").json()
    assert document == {"id": "pack", "object": "model", "created": 5, "owned_by": "satchel"}


def test_no_such_model() -> None:
    response = send(scripted(), "GET", "/v1/models/some/thing")
    assert response.status_code == 404
    assert response.json()["error"]["param"] == "model"


def test_tokenize() -> None:
    engine = scripted([Tokens((1, 2))], [Tokens((3,))])
    body = {"content": "Hi", "add_special": True}
    assert send(engine, "POST", "/tokenize", json=body).json() == {"tokens": [1, 2]}
    assert engine.requests[0] == TokenizeRequest("Hi", add_special=True)
    body = {"messages": HELLO, "tools": [WEATHER], "chat_template_kwargs": {"custom": 1}}
    assert send(engine, "POST", "/tokenize", json=body).json() == {"tokens": [3]}
    assert engine.requests[1] == TokenizeRequest(
        messages=({"role": "system", "content": "Be brief."}, *HELLO),
        tools=(TOLD,),
        template_arguments={"custom": 1},
    )


def test_tokenize_refuses_what_is_not_for_requests_to_set() -> None:
    body = {"messages": HELLO, "chat_template_kwargs": {"messages": []}}
    response = send(scripted(), "POST", "/tokenize", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "chat_template_kwargs.messages"


def test_a_chat_has_the_same_messages_when_it_is_tokenized() -> None:
    own = [{"role": "system", "content": "Mine."}, *HELLO]
    for messages in (HELLO, own):
        engine = scripted([Tokens((1,))])
        send(engine, "POST", "/tokenize", json={"messages": messages})
        assert engine.requests[0].messages == asked(messages=messages).messages


@pytest.mark.parametrize("body", [{}, {"content": "x", "messages": HELLO}, {"content": 1}])
def test_tokenize_refuses(body: Any) -> None:
    assert send(scripted(), "POST", "/tokenize", json=body).status_code == 400


def test_detokenize() -> None:
    engine = scripted([Detokenized("Hi")])
    response = send(engine, "POST", "/detokenize", json={"tokens": [1, 2]})
    assert response.json() == {"content": "Hi"}
    assert send(engine, "POST", "/detokenize", json={"tokens": [-1]}).status_code == 400


def test_failure_of_a_single_event() -> None:
    engine = scripted([Failed("closed", "shutting down")])
    assert send(engine, "POST", "/detokenize", json={"tokens": []}).status_code == 503
