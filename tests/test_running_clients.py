"""A running pack, driven by the client libraries people use."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from running_pack import QUESTION, Place, address_of, place, wait_for

pytestmark = [
    pytest.mark.pack,
    # The libraries' own; ours are errors elsewhere.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

KEY = "a key of ours"
SYSTEM = {"role": "system", "content": "You are a helpful assistant."}
USER = {"role": "user", "content": QUESTION}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
WEATHER = {
    "name": "get_weather",
    "description": "Tells the weather in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return place(tmp_path_factory.mktemp("clients"))


@pytest.fixture(scope="module")
def address(here: Place) -> Iterator[str]:
    server: subprocess.Popen[str] = here.start("serve", "--port", "0", SATCHEL_API_KEY=KEY)
    try:
        found = address_of(server)
        wait_for(lambda: httpx.get(f"{found}/health").status_code == 200, "loading the model")
        yield found
    finally:
        server.kill()
        server.communicate()


@pytest.fixture(scope="module")
def openai_client(address: str) -> Iterator[Any]:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def anthropic_client(address: str) -> Iterator[Any]:
    anthropic = pytest.importorskip("anthropic")
    with anthropic.Anthropic(base_url=address, api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def ollama_client(address: str) -> Iterator[Any]:
    ollama = pytest.importorskip("ollama")
    with ollama.Client(host=address, headers={"Authorization": f"Bearer {KEY}"}) as client:
        yield client


# OpenAI


def test_openai_chat(openai_client: Any) -> None:
    reply = openai_client.chat.completions.create(
        model="default", messages=[SYSTEM, USER], temperature=0, max_completion_tokens=20
    )
    assert "Paris" in reply.choices[0].message.content
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


def test_openai_chat_streamed(openai_client: Any) -> None:
    stream = openai_client.chat.completions.create(
        model="default",
        messages=[SYSTEM, USER],
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert "Paris" in text
    assert chunks[-1].usage.completion_tokens > 0


def test_openai_forced_tool(openai_client: Any) -> None:
    reply = openai_client.chat.completions.create(
        model="default",
        messages=[{"role": "user", "content": "What is the weather in Paris?"}],
        temperature=0,
        max_tokens=80,
        tools=[{"type": "function", "function": WEATHER}],
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
        parallel_tool_calls=False,
    )
    (call,) = reply.choices[0].message.tool_calls
    assert call.function.name == "get_weather"
    assert isinstance(json.loads(call.function.arguments)["city"], str)


def test_openai_json_schema(openai_client: Any) -> None:
    reply = openai_client.chat.completions.create(
        model="default",
        messages=[{"role": "user", "content": "Describe a person as JSON."}],
        temperature=0,
        max_tokens=80,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "person", "schema": PERSON, "strict": True},
        },
    )
    person = json.loads(reply.choices[0].message.content)
    assert set(person) == {"name", "age"}
    assert isinstance(person["age"], int)


def test_openai_choices_and_logprobs(openai_client: Any) -> None:
    reply = openai_client.chat.completions.create(
        model="default", messages=[USER], n=2, logprobs=True, top_logprobs=2, max_tokens=4, seed=1
    )
    assert [choice.index for choice in reply.choices] == [0, 1]
    for choice in reply.choices:
        assert len(choice.logprobs.content) == 4
        assert all(
            row.logprob <= 0 and len(row.top_logprobs) == 2 for row in choice.logprobs.content
        )


def test_openai_completion(openai_client: Any) -> None:
    reply = openai_client.completions.create(
        model="default", prompt="The capital of France is", temperature=0, max_tokens=4
    )
    assert "Paris" in reply.choices[0].text


def test_openai_embeddings(openai_client: Any) -> None:
    reply = openai_client.embeddings.create(model="default", input=["a dog", "a cat"])
    assert [len(item.embedding) for item in reply.data] == [576, 576]


def test_openai_responses(openai_client: Any) -> None:
    reply = openai_client.responses.create(
        model="default", instructions=SYSTEM["content"], input=QUESTION, temperature=0
    )
    assert "Paris" in reply.output_text
    events = openai_client.responses.create(
        model="default", instructions=SYSTEM["content"], input=QUESTION, temperature=0, stream=True
    )
    kinds = [event.type for event in events]
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert "response.output_text.delta" in kinds


def test_openai_models_and_errors(openai_client: Any) -> None:
    import openai

    assert [model.id for model in openai_client.models.list()] == ["SmolLM2"]
    with pytest.raises(openai.NotFoundError, match="SmolLM2"):
        openai_client.chat.completions.create(model="gpt-x", messages=[USER])
    with pytest.raises(openai.BadRequestError, match="temperature"):
        openai_client.chat.completions.create(model="default", messages=[USER], temperature=99)
    with pytest.raises(openai.BadRequestError, match="context"):
        openai_client.chat.completions.create(
            model="default", messages=[{"role": "user", "content": "word " * 9000}]
        )
    wrong = openai_client.with_options(api_key="wrong")
    with pytest.raises(openai.AuthenticationError):
        wrong.chat.completions.create(model="default", messages=[USER])


def all_end(address: str) -> None:
    """No slot stays in use for a client that has gone."""
    headers = {"Authorization": f"Bearer {KEY}"}

    def idle() -> bool:
        slots = httpx.get(f"{address}/slots", headers=headers).json()
        return not any(slot["is_processing"] for slot in slots)

    wait_for(idle, "the end of all answers", 10)


def test_openai_stream_left_early(openai_client: Any, address: str) -> None:
    with openai_client.chat.completions.create(
        model="default", messages=[USER], stream=True, max_tokens=2000, temperature=1.5
    ) as stream:
        for _ in stream:
            break
    all_end(address)
    reply = openai_client.chat.completions.create(
        model="default", messages=[SYSTEM, USER], temperature=0
    )
    assert "Paris" in reply.choices[0].message.content


# Ollama


def test_ollama_chat(ollama_client: Any) -> None:
    options = {"temperature": 0}
    reply = ollama_client.chat(model="SmolLM2", messages=[SYSTEM, USER], options=options)
    assert "Paris" in reply.message.content
    assert reply.done_reason == "stop"
    pieces = ollama_client.chat(
        model="SmolLM2", messages=[SYSTEM, USER], options=options, stream=True
    )
    assert "Paris" in "".join(piece.message.content or "" for piece in pieces)


def test_ollama_tools(ollama_client: Any) -> None:
    """Its interface can't force a call: the tools are taken, and what comes is one or a text."""
    reply = ollama_client.chat(
        model="SmolLM2",
        messages=[{"role": "user", "content": "What is the weather in Paris?"}],
        tools=[{"type": "function", "function": WEATHER}],
        options={"temperature": 0, "num_predict": 60},
    )
    assert reply.message.content or reply.message.tool_calls


def test_ollama_stream_left_early(ollama_client: Any, address: str) -> None:
    pieces = ollama_client.chat(
        model="SmolLM2", messages=[USER], stream=True, options={"temperature": 1.5}
    )
    next(pieces)
    pieces.close()
    all_end(address)
    reply = ollama_client.chat(model="SmolLM2", messages=[SYSTEM, USER], options={"temperature": 0})
    assert "Paris" in reply.message.content


def test_ollama_generate_embed_and_lists(ollama_client: Any) -> None:
    reply = ollama_client.generate(
        model="SmolLM2", prompt=QUESTION, system=SYSTEM["content"], options={"temperature": 0}
    )
    assert "Paris" in reply.response
    assert len(ollama_client.embed(model="SmolLM2", input="a dog").embeddings[0]) == 576
    assert [model.model for model in ollama_client.list().models] == ["SmolLM2:latest"]
    assert ollama_client.show("SmolLM2").details.family == "llama"


def test_ollama_format_and_errors(ollama_client: Any) -> None:
    import ollama

    reply = ollama_client.chat(
        model="SmolLM2",
        messages=[{"role": "user", "content": "Describe a person as JSON."}],
        format=PERSON,
        options={"temperature": 0, "num_predict": 80},
    )
    assert set(json.loads(reply.message.content)) == {"name", "age"}
    with pytest.raises(ollama.ResponseError):
        ollama_client.pull("llama3")
    with pytest.raises(ollama.ResponseError, match="not found"):
        ollama_client.chat(model="llama3", messages=[USER])


# Anthropic


def test_anthropic_messages(anthropic_client: Any) -> None:
    fields: dict[str, Any] = {
        "model": "default",
        "max_tokens": 20,
        "system": SYSTEM["content"],
        "messages": [USER],
        "extra_body": {"temperature": 0},
    }
    reply = anthropic_client.messages.create(**fields)
    assert "Paris" in reply.content[0].text
    assert reply.stop_reason == "end_turn"
    with anthropic_client.messages.stream(**fields) as stream:
        assert "Paris" in "".join(stream.text_stream)
    counted = anthropic_client.messages.count_tokens(
        model="default", system=SYSTEM["content"], messages=[USER]
    )
    read = reply.usage.input_tokens + reply.usage.cache_read_input_tokens
    assert counted.input_tokens == read


def test_anthropic_tool_and_errors(anthropic_client: Any) -> None:
    import anthropic

    reply = anthropic_client.messages.create(
        model="default",
        max_tokens=80,
        extra_body={"temperature": 0},
        messages=[{"role": "user", "content": "What is the weather in Paris?"}],
        tools=[
            {
                "name": "get_weather",
                "description": WEATHER["description"],
                "input_schema": WEATHER["parameters"],
            }
        ],
        tool_choice={
            "type": "tool",
            "name": "get_weather",
            "disable_parallel_tool_use": True,
        },
    )
    (block,) = reply.content
    assert (block.type, block.name) == ("tool_use", "get_weather")
    assert reply.stop_reason == "tool_use"
    with pytest.raises(anthropic.NotFoundError):
        anthropic_client.messages.create(model="claude", max_tokens=5, messages=[USER])


def test_anthropic_json_schema(anthropic_client: Any) -> None:
    reply = anthropic_client.messages.create(
        model="default",
        max_tokens=80,
        messages=[{"role": "user", "content": "Describe a person as JSON."}],
        extra_body={
            "temperature": 0,
            "output_config": {"format": {"type": "json_schema", "schema": PERSON}},
        },
    )
    assert set(json.loads(reply.content[0].text)) == {"name", "age"}


def test_anthropic_stop_sequence(anthropic_client: Any) -> None:
    reply = anthropic_client.messages.create(
        model="default",
        max_tokens=20,
        system=SYSTEM["content"],
        messages=[USER],
        stop_sequences=["Paris"],
        extra_body={"temperature": 0},
    )
    assert (reply.stop_reason, reply.stop_sequence) == ("stop_sequence", "Paris")


def test_anthropic_stream_left_early(anthropic_client: Any, address: str) -> None:
    fields: dict[str, Any] = {"model": "default", "messages": [USER]}
    with anthropic_client.messages.stream(max_tokens=2000, **fields) as stream:
        for _ in stream:
            break
    all_end(address)
    reply = anthropic_client.messages.create(max_tokens=5, **fields)
    assert reply.content


# The server itself


def test_foreign_pages_and_hosts_are_kept_out(address: str) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    body = {"messages": [USER], "max_tokens": 1}
    url = f"{address}/v1/chat/completions"
    assert httpx.post(url, json=body, headers=headers, timeout=60).status_code == 200
    for extra in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        assert httpx.post(url, json=body, headers={**headers, **extra}).status_code == 403


def test_metrics_and_description(address: str) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    metrics = httpx.get(f"{address}/metrics", headers=headers)
    assert metrics.status_code == 200
    assert "satchel_" in metrics.text
    document = httpx.get(f"{address}/openapi.json", headers=headers).json()
    assert document["openapi"].startswith("3.")
    assert {"/v1/chat/completions", "/api/chat", "/v1/messages"} <= set(document["paths"])


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"messages": 3}',
        b'{"messages": [{"role": "user", "content": "\xff"}]}',
        b'{"messages": ' + b"[" * 100_000,
        b'{"messages": [], "max_tokens": 1e999}',
        b'{"messages": [{"role": "user", "content": "a"}], "grammar": "root ::= root"}',
        b'{"messages": [{"role": "user", "content": "a"}], "max_tokens": -5}',
    ],
)
def test_bad_bodies_get_a_reason(address: str, body: bytes) -> None:
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    reply = httpx.post(f"{address}/v1/chat/completions", content=body, headers=headers, timeout=60)
    assert 400 <= reply.status_code < 500
    assert reply.json()["error"]["message"]
