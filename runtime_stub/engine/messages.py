"""What crosses the engine's boundary: plain data, requests in and events out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ModelSource:
    """Where a GGUF lies: an open file and a range of it. Never a path."""

    descriptor: int
    offset: int
    length: int
    name: str = "satchel"
    """What the file is called, for messages."""


@dataclass(frozen=True)
class EngineSettings:
    """How to run a model. None and 0 mean: choose for this machine."""

    context: int | None = None
    """Tokens shared by all slots; None takes the smaller of the model's, 8,192 and what
    memory allows. FIT_REQUEST (0) takes what the first request needs."""
    parallel: int = 1
    """How many requests are worked on at once."""
    threads: int = 0
    flash_attention: bool = True
    batch: int = 512
    """Prompt tokens read per step."""
    template: str | None = None
    """A chat template to use instead of the model's own."""


FIT_REQUEST = 0


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. The defaults are llama.cpp's."""

    temperature: float = 0.8
    """0 or less always takes the most likely token."""
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repeat_last_n: int = 64
    seed: int | None = None
    """None chooses a fresh one."""


@dataclass(frozen=True)
class Request:
    """One thing to be answered: a chat to continue, or a text to complete."""

    messages: tuple[dict[str, Any], ...] = ()
    """Chat messages with "role" and "content"; used when `text` is None."""
    text: str | None = None
    """Raw text to complete, without the chat template."""
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    """None goes on until the model stops or the context is full."""
    stop: tuple[str, ...] = ()
    """Generation ends before the first of these."""
    template_arguments: dict[str, Any] = field(default_factory=dict)
    """Further variables for the chat template."""


@dataclass(frozen=True)
class PromptRead:
    """The prompt is in; the first token follows."""

    tokens: int
    cached: int
    """How many of them did not have to be read again."""


@dataclass(frozen=True)
class Text:
    """A piece of the answer. Concatenated pieces are the answer."""

    text: str


@dataclass(frozen=True)
class Usage:
    """Counts in tokens, times in seconds."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    prompt_seconds: float
    completion_seconds: float


@dataclass(frozen=True)
class Finished:
    """The last event of a request that was answered."""

    reason: str
    """One of "stop" (the model ended, or a stop string came), "length" or "cancelled"."""
    usage: Usage


@dataclass(frozen=True)
class Failed:
    """The last event of a request that could not be answered."""

    kind: str
    """One of "prompt" or "too-long" (the request's own fault), "engine", "closed" (the engine was
    stopped) or "changed" (the model's file was, while it was in use)."""
    message: str
    hint: str = ""


Event = PromptRead | Text | Finished | Failed


@dataclass(frozen=True)
class Status:
    """What the engine is doing."""

    state: str
    """One of "loading", "ready", "failed" or "closed"."""
    progress: float = 0.0
    """Of loading, from 0 to 1."""
    message: str = ""
    """Why it failed."""


@dataclass(frozen=True)
class ModelFacts:
    """What a loaded model is and how it runs here."""

    description: str
    parameters: int
    size: int
    """Bytes of weights."""
    trained_context: int
    context: int
    """Tokens in use now; 0 while there is no context yet."""
    context_reason: str
    threads: int
    cpu_variant: str
    template: str
    """Where the chat template comes from: "model", "recipe" or a named fallback."""
