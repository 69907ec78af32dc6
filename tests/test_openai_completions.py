from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from engine_fixtures import ScriptedEngine, ScriptedTicket
from face_fixtures import scripted, send
from test_openai import ANSWER, END, SEVERAL, stream

from runtime_stub.engine.messages import (
    AnyRequest,
    ChoiceEnd,
    Detokenized,
    Event,
    Failed,
    Finished,
    PromptRead,
    Request,
    Text,
    TokenLogprob,
    Usage,
)
from runtime_stub.server.joined import submit_all

PATH = "/v1/completions"


def complete(engine: ScriptedEngine, **fields: Any) -> httpx.Response:
    return send(engine, "POST", PATH, json={"prompt": "Once", **fields})


def test_text() -> None:
    engine = scripted(ANSWER)
    document = complete(engine, max_tokens=5, stop="x", temperature=0).json()
    assert document.pop("id").startswith("cmpl-")
    assert document.pop("created") > 0
    assert document.pop("usage")["total_tokens"] == 12
    assert document == {
        "object": "text_completion",
        "model": "pack",
        "choices": [{"index": 0, "text": "Hi", "finish_reason": "stop", "logprobs": None}],
    }
    request = engine.requests[0]
    assert (request.text, request.tokens, request.messages) == ("Once", None, ())
    assert (request.max_tokens, request.stop, request.reasoning) == (5, ("x",), False)


@pytest.mark.parametrize(("said", "limit"), [(None, 100), (-1, None), (3, 3)])
def test_limit(said: int | None, limit: int | None) -> None:
    engine = scripted(ANSWER)
    assert complete(engine, max_tokens=said).status_code == 200
    assert engine.requests[0].max_tokens == limit


def test_tokens() -> None:
    engine = scripted(ANSWER)
    assert complete(engine, prompt=[1, 2]).status_code == 200
    assert (engine.requests[0].text, engine.requests[0].tokens) == (None, (1, 2))


def test_several_prompts_and_choices() -> None:
    engine = scripted(list(SEVERAL), list(SEVERAL))
    document = complete(engine, prompt=["a", [1]], n=2).json()
    found = [(c["index"], c["text"], c["finish_reason"]) for c in document["choices"]]
    assert found == [(0, "b", "stop"), (1, "a", "length"), (2, "b", "stop"), (3, "a", "length")]
    assert document["usage"]["prompt_tokens"] == 20
    assert [(r.text, r.tokens, r.choices) for r in engine.requests] == [
        ("a", None, 2),
        (None, (1,), 2),
    ]


def test_several_prompts_in_a_stream() -> None:
    engine = scripted(ANSWER, ANSWER)
    chunks = stream(
        engine, PATH, prompt=["a", "b"], stream_options={"include_usage": True}, echo=True
    )
    texts = {0: "", 1: ""}
    for chunk in chunks[:-1]:
        (choice,) = chunk["choices"]
        texts[choice["index"]] += choice["text"]
    assert texts == {0: "aHi", 1: "bHi"}
    assert (chunks[-1]["choices"], chunks[-1]["usage"]["completion_tokens"]) == ([], 4)


def test_one_of_several_fails() -> None:
    pause: list[Event | float] = [5.0]
    engine = scripted(pause, [Failed("too-long", "9 tokens")])
    response = complete(engine, prompt=["a", "b"])
    assert (response.status_code, response.json()["error"]["message"]) == (400, "9 tokens")
    assert engine.tickets[0].cancelled.is_set()


def test_failure_in_a_stream() -> None:
    engine = scripted([PromptRead(1, 0), Text("a"), Failed("engine", "broken")])
    response = send(engine, "POST", PATH, json={"prompt": "x", "stream": True})
    assert '"broken"' in response.text.split("\n\n")[-2]


def test_echo_of_tokens() -> None:
    engine = scripted([Detokenized("Once")], ANSWER)
    choices = complete(engine, prompt=[1], echo=True).json()["choices"]
    assert choices[0]["text"] == "OnceHi"


def test_logprobs() -> None:
    tokens = (
        TokenLogprob("H", b"H", -0.5, (("H", b"H", -0.5), ("A", b"A", -1.0))),
        TokenLogprob("i", b"i", -0.1),
    )
    told = {
        "tokens": ["H", "i"],
        "token_logprobs": [-0.5, -0.1],
        "top_logprobs": [{"H": -0.5, "A": -1.0}, {}],
        "text_offset": [0, 1],
    }
    engine = scripted([PromptRead(1, 0), Text("Hi", 0, tokens), *END])
    assert complete(engine, logprobs=2).json()["choices"][0]["logprobs"] == told
    assert engine.requests[0].logprobs == 2
    engine = scripted([PromptRead(1, 0), Text("H", 0, tokens[:1]), Text("i", 0, tokens[1:]), *END])
    chunks = stream(engine, PATH, prompt="x", logprobs=2)
    assert [chunk["choices"][0]["logprobs"]["text_offset"] for chunk in chunks[:2]] == [[0], [1]]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [[1, 2**31]]}, "prompt"),
        ({"prompt": ["x"] * 65}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"echo": True, "logprobs": 1}, "echo"),
        ({"logprobs": 21}, "logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"grammar": ""}, "grammar"),
        ({"messages": []}, "messages"),
    ],
)
def test_wrong_field_is_named(fields: dict[str, Any], param: str) -> None:
    response = complete(scripted(), **fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


class Closed(ScriptedEngine):
    """Answers from within `submit`."""

    def submit(self, request: AnyRequest, sink: Callable[[Event], None]) -> ScriptedTicket:  # type: ignore[override]
        sink(Failed("closed", "over"))
        self.tickets.append(ScriptedTicket())
        return self.tickets[-1]


def test_engine_that_answers_at_once() -> None:
    seen: list[Event] = []
    engine = Closed()
    submit_all(engine, [Request(text="a"), Request(text="b")], seen.append)
    assert seen == [Failed("closed", "over")]
    assert all(ticket.cancelled.is_set() for ticket in engine.tickets)


def test_usage_is_added_up() -> None:
    seen: list[Event] = []
    done = threading.Event()

    def sink(event: Event) -> None:
        seen.append(event)
        if isinstance(event, Finished):
            done.set()

    script: list[Event | float] = [
        PromptRead(1, 0),
        ChoiceEnd("stop"),
        Finished("stop", Usage(1, 2, 3, 0.5, 0.25)),
    ]
    cancel = submit_all(scripted(list(script), list(script)), [Request(text="a")] * 2, sink)
    assert done.wait(5)
    cancel()
    assert seen[0] == PromptRead(1, 0)
    assert seen[-1] == Finished("stop", Usage(2, 4, 6, 1.0, 0.5))
    assert len(seen) == 4
