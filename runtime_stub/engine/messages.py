"""What crosses the engine's boundary: plain data, requests in and events out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from runtime_stub.engine.kv import DEFAULT as DEFAULT_KV


@dataclass(frozen=True)
class ModelSource:
    """Where a GGUF lies: an open file and a range of it. Never a path."""

    descriptor: int
    offset: int
    length: int
    name: str = "satchel"
    """What the file is called, for messages."""


@dataclass(frozen=True)
class AdapterSource:
    """Where an adapter's GGUF lies, and how it is used."""

    name: str
    source: ModelSource
    scale: float = 1.0
    """How strongly it works when a request does not say."""
    always: bool = False
    """Whether it works where a request chooses nothing."""


@dataclass(frozen=True)
class Sources:
    """Where a model lies, and what belongs to it."""

    model: ModelSource
    adapters: tuple[AdapterSource, ...] = ()
    warm: tuple[ModelSource, ...] = ()
    """Prompts that it has read already."""
    draft: ModelSource | None = None
    """A model that guesses ahead for it."""


Mix = tuple[tuple[str, float], ...]
"""Names of adapters and how strongly each works, in order of the names; empty for none."""


@dataclass(frozen=True)
class EngineSettings:
    """How to run a model. None and 0 mean: choose for this machine."""

    context: int | None = None
    """Tokens shared by all slots; None takes the smaller of the model's, 8,192 and what
    memory allows. FIT_REQUEST (0) takes what the first request needs."""
    parallel: int = 1
    """How many requests are worked on at once."""
    threads: int = 0
    """For generating."""
    prompt_threads: int = 0
    """For reading prompts; 0 takes as many as for generating where those were chosen."""
    flash_attention: bool | None = None
    """None and True use it where the model allows it."""
    batch: int = 0
    """Prompt tokens read per step."""
    repack: bool | None = None
    """Whether weights are copied into the order that this processor likes best."""
    kv: str = DEFAULT_KV
    """How keys and values are kept, one of KV_TYPES."""
    queue: int = 64
    """How many requests may wait for a slot; further ones fail as "busy" (see `crowd`)."""
    timeout: float = 600.0
    """Longest time from submitting to the last event, in seconds; 0 for no limit."""
    template: str | None = None
    """A chat template to use instead of the model's own."""
    examples: tuple[tuple[str, str], ...] = ()
    """What every chat begins with, after its system prompt: what somebody asks, and the answer."""
    drafts: bool = True
    """Whether to guess ahead where that pays: what a text repeats, and by a draft model."""
    prompt_cache: int = 0
    """Bytes on disk that prompts may take which are kept from one start to the next; 0 keeps
    none."""


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
    """How many tokens the penalties look back; -1 is the whole context."""
    seed: int | None = None
    """None chooses a fresh one; choice n of several adds n to it."""
    typical_p: float = 1.0
    top_n_sigma: float = -1.0
    """Negative: off."""
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    dry_multiplier: float = 0.0
    """0: off."""
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_last_n: int = -1
    """How many tokens DRY looks back; -1 is the whole context."""
    mirostat: int = 0
    """0: off; 1 or 2 is its version, which replaces top-k, top-p and their relatives."""
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token, what is added to its logit); minus infinity forbids the token."""


@dataclass(frozen=True)
class Request:
    """One thing to be answered: a chat to continue, or a text to complete."""

    messages: tuple[dict[str, Any], ...] = ()
    """Chat messages in OpenAI's shape; used when `text` and `tokens` are None."""
    text: str | None = None
    """Raw text to complete, without the chat template."""
    tokens: tuple[int, ...] | None = None
    """The same, already tokenised."""
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    """None goes on until the model stops or the context is full."""
    stop: tuple[str, ...] = ()
    """Generation ends before the first of these."""
    choices: int = 1
    """How many answers to give to the one prompt."""
    logprobs: int | None = None
    """With each token its probability, and those of so many alternatives."""
    grammar: str | None = None
    """GBNF that the answer must follow, already checked."""
    tools: tuple[dict[str, Any], ...] = ()
    """Functions the model may call, in OpenAI's shape: {"name", "description", "parameters"}."""
    tool_choice: str = "auto"
    """One of "auto", "none", "required", or "function:NAME" for one that must be called."""
    parallel_tool_calls: bool = True
    whole_calls: bool = False
    """Whether a call is told when it is complete, and what turns out to be none is text to its end:
    for answers that are not streamed. If not, its arguments are told as they come."""
    reasoning: bool = True
    """Whether reasoning is told apart from the answer; if not, it is part of the text."""
    template_arguments: dict[str, Any] = field(default_factory=dict)
    """Further variables for the chat template."""
    fresh: bool = False
    """Whether all of the prompt is read, and nothing guessed ahead. When such a request is alone,
    any model gives it the same answer, bit by bit, whatever was asked before."""
    adapters: tuple[tuple[str, float | None], ...] | None = None
    """(name, scale) of the LoRA adapters to answer with; for a scale of None the adapter's own.
    None takes those that always work."""


@dataclass(frozen=True)
class EmbedRequest:
    """Texts to turn into vectors. Answered by one Embeddings event."""

    texts: tuple[str, ...]
    normalise: bool = True
    truncate: bool = False
    """Whether of a text that is too long the beginning is read; if not, that is refused."""
    adapters: tuple[tuple[str, float | None], ...] | None = None
    """As in Request."""


@dataclass(frozen=True)
class RerankRequest:
    """Documents to score against a query. Answered by one Scores event."""

    query: str
    documents: tuple[str, ...]
    adapters: tuple[tuple[str, float | None], ...] | None = None
    """As in Request."""


@dataclass(frozen=True)
class TokenizeRequest:
    """A text, or a chat as the template renders it, to tokenise. Answered by one Tokens event."""

    text: str | None = None
    messages: tuple[dict[str, Any], ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    add_special: bool = False
    """For a text: add the tokens that start a prompt."""
    template_arguments: dict[str, Any] = field(default_factory=dict)
    """For a chat: further variables for the chat template."""


@dataclass(frozen=True)
class DetokenizeRequest:
    """Tokens to turn into text. Answered by one Detokenized event."""

    tokens: tuple[int, ...]


AnyRequest = Request | EmbedRequest | RerankRequest | TokenizeRequest | DetokenizeRequest


@dataclass(frozen=True)
class Begun:
    """The request has got its slots, one for each choice, and reads its prompt next. This is for
    whoever watches the slots, and comes before all else or not at all."""

    slots: tuple[int, ...]


@dataclass(frozen=True)
class PromptRead:
    """The prompt is in; the first token follows."""

    tokens: int
    cached: int
    """How many of them did not have to be read again."""


@dataclass(frozen=True)
class TokenLogprob:
    """A token, its logarithmic probability, and those that came closest."""

    text: str
    """What it stands for; U+FFFD where it is part of a character."""
    raw: bytes
    logprob: float
    top: tuple[tuple[str, bytes, float], ...] = ()
    """(text, raw, logprob) of the most probable tokens, best first."""


@dataclass(frozen=True)
class Text:
    """A piece of the answer. Concatenated pieces of one choice are its answer."""

    text: str
    choice: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    """Of the tokens that came since the last piece, when they were asked for."""


@dataclass(frozen=True)
class Reasoning:
    """A piece of what the model thinks before it answers."""

    text: str
    choice: int = 0


@dataclass(frozen=True)
class ToolCall:
    """A call of a function, or the next piece of its arguments."""

    index: int
    """Which call of this choice, from 0."""
    identity: str = ""
    """Set in the first piece only, as is `name`."""
    name: str = ""
    arguments: str = ""
    """JSON text; the pieces of one call concatenate."""
    choice: int = 0


@dataclass(frozen=True)
class ChoiceEnd:
    """One choice is complete."""

    reason: str
    """One of "stop", "length", "tool_calls" or "cancelled"."""
    choice: int = 0
    stop: str | None = None
    """The stop string that ended it, if one did."""


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
    """Why the first choice ended, as in ChoiceEnd."""
    usage: Usage
    stop: str | None = None
    """The stop string that ended the first choice, if one did."""


@dataclass(frozen=True)
class Embeddings:
    """The only event of an EmbedRequest that was answered."""

    vectors: tuple[tuple[float, ...], ...]
    tokens: int
    """How many were read."""


@dataclass(frozen=True)
class Scores:
    """The only event of a RerankRequest that was answered: higher is more relevant."""

    scores: tuple[float, ...]
    tokens: int


@dataclass(frozen=True)
class Tokens:
    """The only event of a TokenizeRequest that was answered."""

    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Detokenized:
    """The only event of a DetokenizeRequest that was answered."""

    text: str


@dataclass(frozen=True)
class Failed:
    """The last event of a request that could not be answered."""

    kind: str
    """One of "prompt" or "too-long" (the request's own fault), "unsupported" (this model can't do
    it), "busy" (too many wait already), "timeout", "engine", "closed" (the engine was stopped) or
    "changed" (the model's file was, while it was in use)."""
    message: str
    hint: str = ""


Event = (
    Begun
    | PromptRead
    | Text
    | Reasoning
    | ToolCall
    | ChoiceEnd
    | Finished
    | Failed
    | Embeddings
    | Scores
    | Tokens
    | Detokenized
)
LAST_EVENTS = (Finished, Failed, Embeddings, Scores, Tokens, Detokenized)
"""Exactly one of these ends every request."""


@dataclass(frozen=True)
class Status:
    """What the engine is doing."""

    state: str
    """One of "unloaded" (until somebody asks), "loading", "ready", "failed" or "closed"."""
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
    embeddings: bool
    """Whether it answers EmbedRequests."""
    rerank: bool
    """Whether it answers RerankRequests."""
    vocabulary: int
    """How many tokens there are."""
    template: str
    """Where the chat template comes from: "model", "recipe" or a named fallback."""
    draft: str = ""
    """The model that guesses ahead for it, in a few words; empty without one."""
