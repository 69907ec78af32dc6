from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from engine_fixtures import (
    ScriptedEngine,
    ScriptedTicket,
    ask,
    eventually,
    sample_engine,
    sample_model,
    sample_source,
)
from face_fixtures import scripted, send
from test_openai import ANSWER, END, SEVERAL, stream

from runtime_stub.engine.engine import Engine
from runtime_stub.engine.messages import (
    LAST_EVENTS,
    AnyRequest,
    ChoiceEnd,
    Detokenized,
    Event,
    Failed,
    Finished,
    PromptRead,
    Request,
    Sampling,
    Text,
    TokenLogprob,
    Usage,
)
from runtime_stub.server.answer import Answer
from runtime_stub.server.joined import submit_all

__all__ = ["sample_engine", "sample_model", "sample_source"]
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


def test_more_prompts_than_are_worked_on_at_once() -> None:
    """Each begins when another has ended, and the choices are in the order of the prompts."""
    engine = Crowded(4, *([PromptRead(1, 0), 0.01, Text(str(n)), *END] for n in range(20)))
    choices = complete(engine, prompt=[f"p{n}" for n in range(20)]).json()["choices"]
    assert [choice["index"] for choice in choices] == list(range(20))
    by_prompt = {request.text: str(n) for n, request in enumerate(engine.requests)}
    assert [choice["text"] for choice in choices] == [by_prompt[f"p{n}"] for n in range(20)]
    assert engine.most == 4


def test_more_choices_than_are_worked_on_at_once() -> None:
    """As on a server that has room for all: seeds count on, and the prompt is counted once."""
    script: list[Event | float] = [PromptRead(10, 4), Text("a", 0), Text("b", 1), *END]
    engine = Crowded(4, list(script), list(script), list(script))
    document = complete(engine, n=10, seed=2**32 - 5).json()
    assert [(r.choices, r.sampling.seed) for r in engine.requests] == [
        (4, 2**32 - 5),
        (4, 2**32 - 1),
        (2, 3),
    ]
    texts = [choice["text"] for choice in document["choices"]]
    assert texts == ["a", "b", "", ""] * 2 + ["a", "b"]
    assert document["usage"]["prompt_tokens"] == 10
    assert document["usage"]["prompt_tokens_details"]["cached_tokens"] == 4
    assert document["usage"]["completion_tokens"] == 6
    assert engine.most == 4


def test_choices_without_a_seed_get_none() -> None:
    engine = Crowded(4, list(SEVERAL), list(SEVERAL))
    complete(engine, n=6, seed=-1)
    assert [(r.choices, r.sampling.seed) for r in engine.requests] == [(4, None), (2, None)]


def test_chats_have_more_choices_than_are_worked_on_at_once() -> None:
    engine = Crowded(4, *(list(SEVERAL) for _ in range(3)))
    body = {"messages": [{"role": "user", "content": "Hi"}], "n": 10}
    choices = send(engine, "POST", "/v1/chat/completions", json=body).json()["choices"]
    assert [choice["message"]["content"] for choice in choices[4:6]] == ["b", "a"]
    assert [request.choices for request in engine.requests] == [4, 4, 2]


def test_several_prompts_with_several_choices_take_turns() -> None:
    engine = Crowded(4, *(list(SEVERAL) for _ in range(3)))
    document = complete(engine, prompt=["x", "y", "z"], n=2).json()
    assert [choice["text"] for choice in document["choices"]] == ["b", "a"] * 3
    assert document["usage"]["prompt_tokens"] == 30
    assert engine.most == 4


def test_a_client_that_leaves_takes_back_what_has_not_begun() -> None:
    pause: list[Event | float] = [5.0]
    engine = scripted(*(list(pause) for _ in range(2)))
    seen: list[Event] = []
    requests = [Request(text=str(number)) for number in range(9)]
    cancel = submit_all(engine, requests, seen.append, at_once=2)
    assert len(engine.requests) == 2
    cancel()
    assert eventually(lambda: bool(seen))
    assert [type(event) for event in seen] == [Finished]
    assert all(ticket.cancelled.is_set() for ticket in engine.tickets)
    assert len(engine.requests) == 2


def test_the_first_failure_takes_back_what_has_not_begun() -> None:
    engine = scripted([5.0], [0.05, Failed("engine", "broken")])
    seen: list[Event] = []
    submit_all(engine, [Request(text="x")] * 9, seen.append, at_once=2)
    assert eventually(lambda: bool(seen))
    assert seen == [Failed("engine", "broken")]
    assert engine.tickets[0].cancelled.is_set()
    assert len(engine.requests) == 2


def test_one_that_finds_no_place_comes_later() -> None:
    """Others fill the queue: what is answered already does not get lost for that."""
    engine = Crowded(4, *([0.02, Text(str(n)), *END] for n in range(9)), places=2)
    document = complete(engine, prompt=[f"p{n}" for n in range(9)])
    assert document.status_code == 200
    assert [choice["text"] for choice in document.json()["choices"]] == [str(n) for n in range(9)]
    assert engine.most == 2
    assert complete(Crowded(4, places=0), prompt=["a", "b"]).status_code == 503


def test_all_prompts_together_have_the_time_of_one_request() -> None:
    engine = scripted(*([0.05, Text("x"), 0.05, Text("y"), *END] for _ in range(20)))
    seen: list[Event] = []
    submit_all(engine, [Request(text="x")] * 20, seen.append, at_once=1, seconds=0.3)
    assert eventually(lambda: any(isinstance(event, Failed) for event in seen))
    assert seen[-1] == Failed("timeout", "the request took too long")
    assert len(engine.requests) < 10


def test_a_choice_is_the_same_in_whichever_turn_it_comes(sample_engine: Engine) -> None:
    sampling = Sampling(temperature=1.5, seed=11)
    request = ask("Name an animal.", sampling=sampling, max_tokens=8, choices=4)

    def texts(at_once: int) -> list[str]:
        answer, done = Answer(), threading.Event()

        def sink(event: Event) -> None:
            answer.add(event)
            if isinstance(event, LAST_EVENTS):
                done.set()

        submit_all(sample_engine, [request], sink, at_once)  # type: ignore[arg-type]
        assert done.wait(60)
        return [choice.text for choice in answer.choices]

    whole = texts(4)
    assert texts(3) == texts(1) == whole
    assert len(set(whole)) > 1


class Crowded(ScriptedEngine):
    """Notes how many choices were worked on at once, at most; it has room for so many requests."""

    def __init__(self, parallel: int, *scripts: list[Event | float], places: int = 99) -> None:
        super().__init__(*scripts, facts=scripted().facts)
        self.most = 0
        self._places = places
        self._now = 0
        self._running = 0
        self._lock = threading.Lock()
        self._parallel = parallel

    def submit(self, request: AnyRequest, sink: Callable[[Event], None]) -> ScriptedTicket:  # type: ignore[override]
        assert isinstance(request, Request)
        if self._running >= self._places:
            sink(Failed("busy", "too many"))
            return ScriptedTicket()
        with self._lock:
            self._running += 1
            self._now += request.choices
            self.most = max(self.most, self._now)
            assert self._now <= self._parallel

        def note(event: Event) -> None:
            if isinstance(event, LAST_EVENTS):
                with self._lock:
                    self._running -= 1
                    self._now -= request.choices
            sink(event)

        return super().submit(request, note)


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
