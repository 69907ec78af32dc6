"""The documents that clients of Ollama send and get.

Shapes follow Ollama's API reference. As there, unknown fields are ignored; so are those that
say how to run the model, which was decided when the pack was started.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType


class Options(msgspec.Struct):
    """The options that say how to generate. Whole numbers may be written as 1.0 as well: some
    clients do."""

    temperature: float | None = None
    top_k: int | float | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | float | None = None
    """-1 looks back over the whole context."""
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    mirostat: int | float | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    seed: int | float | None = None
    """-1: a fresh one; of others the lowest 32 bits count."""
    stop: str | list[str] | None = None
    num_predict: int | float | None = None
    """How many tokens at most; 0 or less for no limit."""
    num_ctx: int | float | None = None
    """Accepted; the context is what the pack was started with."""

    def __post_init__(self) -> None:
        for name in ("top_k", "repeat_last_n", "mirostat", "seed", "num_predict", "num_ctx"):
            value = getattr(self, name)
            if isinstance(value, float):
                if not value.is_integer():
                    raise ValueError(f"{name} must be a whole number, not {value}")
                setattr(self, name, int(value))


class FunctionCall(msgspec.Struct):
    """Which function a call names, and with what."""

    name: str
    arguments: dict[str, Any] = {}


class Call(msgspec.Struct):
    """A call that the assistant made earlier."""

    function: FunctionCall
    id: str = ""


class Message(msgspec.Struct):
    """One message of a chat."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[Call] | None = None
    tool_name: str | None = None
    """Of a tool's result: the function."""
    tool_call_id: str | None = None


class Function(msgspec.Struct):
    """What a tool is called and takes."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(msgspec.Struct):
    """A tool that is offered."""

    function: Function
    type: str = "function"


class ChatRequest(msgspec.Struct):
    """The body of POST /api/chat."""

    model: str
    messages: list[Message] | None = None
    """None or empty only asks for the model to be loaded."""
    stream: bool | None = None
    format: str | dict[str, Any] | None = None
    """ "json", or a JSON schema."""
    options: Options | None = None
    keep_alive: float | str | None = None
    """For how long after this request the model stays in memory unused: seconds, or "5m". With 0 it
    leaves at once, below 0 it stays. Until it has left, that holds for requests without it, too."""
    tools: list[Tool] | None = None
    think: bool | str | None = None
    """Whether, or with what effort ("low", "medium", "high"), to think first."""
    logprobs: bool | None = None
    top_logprobs: int | None = None


class GenerateRequest(msgspec.Struct):
    """The body of POST /api/generate."""

    model: str
    prompt: str | None = None
    """None or empty only asks for the model to be loaded."""
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    context: list[int] | None = None
    """Ignored: send the conversation to /api/chat instead."""
    raw: bool | None = None
    """Whether the prompt is complete as it is, without the chat template."""
    images: list[str] | None = None
    stream: bool | None = None
    format: str | dict[str, Any] | None = None
    options: Options | None = None
    keep_alive: float | str | None = None
    think: bool | str | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


class EmbedBody(msgspec.Struct):
    """The body of POST /api/embed."""

    model: str
    input: str | list[str] | None = None
    """A text, or several. For none, and for an empty one, there are no vectors."""
    truncate: bool | None = None
    """Whether of a text that is too long the beginning is read, as is done unless this says no;
    then it is an error."""
    dimensions: int | None = None
    options: Options | None = None
    keep_alive: float | str | None = None


class EmbeddingsBody(msgspec.Struct):
    """The body of POST /api/embeddings, which came before /api/embed."""

    model: str
    prompt: str = ""
    options: Options | None = None
    keep_alive: float | str | None = None


class ShowBody(msgspec.Struct):
    """The body of POST /api/show."""

    model: str = ""
    name: str = ""
    """What `model` was called before; it counts where that is missing."""
    verbose: bool | None = None


class Error(msgspec.Struct):
    """What went wrong."""

    error: str


class TopLogprob(msgspec.Struct, kw_only=True):
    """A token that could have stood there."""

    token: str
    logprob: float
    bytes: list[int]


class Logprob(TopLogprob, kw_only=True):
    """A token of the answer, and what could have stood there."""

    top_logprobs: list[TopLogprob] = []


class Timing(msgspec.Struct, kw_only=True):
    """Counts in tokens and times in nanoseconds; sent with the last document."""

    total_duration: int | UnsetType = UNSET
    load_duration: int | UnsetType = UNSET
    """How long the request waited for the model and for its turn."""
    prompt_eval_count: int | UnsetType = UNSET
    prompt_eval_duration: int | UnsetType = UNSET
    eval_count: int | UnsetType = UNSET
    eval_duration: int | UnsetType = UNSET


class Reply(Timing, kw_only=True, omit_defaults=True):
    """What all answers have, whole or in pieces."""

    model: str
    created_at: str
    done: bool
    """Whether this document is the last."""
    done_reason: str = ""
    """Of the last: "stop", "length" or "load"."""
    logprobs: list[Logprob] = []


class ReplyFunction(msgspec.Struct):
    """Which function to call, and with what."""

    index: int
    name: str
    arguments: dict[str, Any]


class ReplyCall(msgspec.Struct):
    """A call that the client is to make."""

    id: str
    function: ReplyFunction


class ReplyMessage(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What the assistant says, or a piece of it."""

    role: str
    content: str
    thinking: str = ""
    tool_calls: list[ReplyCall] = []


class ChatReply(Reply, kw_only=True, omit_defaults=True):
    """The reply to POST /api/chat, or one line of it."""

    message: ReplyMessage


class GenerateReply(Reply, kw_only=True, omit_defaults=True):
    """The reply to POST /api/generate, or one line of it."""

    response: str
    thinking: str = ""


class EmbedReply(msgspec.Struct, kw_only=True):
    """The reply to POST /api/embed: a vector of length 1 for each text."""

    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class EmbeddingsReply(msgspec.Struct):
    """The reply to POST /api/embeddings."""

    embedding: list[float]


class Details(msgspec.Struct, kw_only=True):
    """What kind of model it is."""

    parent_model: str = ""
    format: str = "gguf"
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class Model(msgspec.Struct, kw_only=True):
    """A model in a list."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: Details


class Tags(msgspec.Struct):
    """The reply to GET /api/tags."""

    models: list[Model]


class Running(msgspec.Struct, kw_only=True):
    """A model that is loaded."""

    name: str
    model: str
    size: int
    digest: str
    details: Details
    expires_at: str
    size_vram: int
    context_length: int


class Processes(msgspec.Struct):
    """The reply to GET /api/ps."""

    models: list[Running]


class Show(msgspec.Struct, kw_only=True):
    """The reply to POST /api/show."""

    modified_at: str
    details: Details
    model_info: dict[str, Any]
    capabilities: list[str]
    parameters: str
    """A name and its value on each line."""
    template: str
    system: str
    license: str


class Version(msgspec.Struct):
    """The reply to GET /api/version."""

    version: str
