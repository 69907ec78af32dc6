"""From what clients of Ollama ask to what the engine is asked. Nothing about HTTP.

Everything here raises Problem (400), with the path of the field, for what is out of bounds or
not supported.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec

from runtime_stub.engine.messages import EmbedRequest, Request, Sampling
from runtime_stub.server.functions import functions_of
from runtime_stub.server.ollama_types import (
    ChatRequest,
    EmbedBody,
    GenerateRequest,
    Message,
    Options,
    Tool,
)
from runtime_stub.server.replies import Problem
from runtime_stub.server.sampling import SETTINGS, choose, limit, stops
from runtime_stub.server.state import Defaults

MAX_TOP_LOGPROBS = 20
_EFFORTS = ("low", "medium", "high")
_DURATION = re.compile(r"[-+]?(\d+|((\d+(\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h))+)")
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_LONGEST = 10 * 365 * 86400.0
_SAMPLING = [name for name in SETTINGS if name in Options.__struct_fields__]


def chat_request(chat: ChatRequest, defaults: Defaults, grammar: str | None) -> Request:
    """A chat to continue. The pack's own settings hold where the client says nothing."""
    asked = chat.messages or []
    for number, message in enumerate(asked):
        if message.images:
            raise _no_images(f"messages[{number}].images")
    messages = _plain(asked)
    if defaults.system and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": defaults.system})
    tools = _tools(chat.tools or ())
    # Its clients are told of calls as a whole, also while they are streamed to.
    request = Request(messages=tuple(messages), tools=tools, whole_calls=True, grammar=grammar)
    return _with_settings(request, chat, defaults)


def generate_request(body: GenerateRequest, defaults: Defaults, grammar: str | None) -> Request:
    """A prompt that stands alone, or with `raw` a text to go on with."""
    if body.images:
        raise _no_images("images")
    if body.template:
        raise _wrong("template", "a request can't replace a pack's chat template")
    if body.suffix:
        raise _wrong("suffix", "this model does not support insert")
    prompt = body.prompt or ""
    system = body.system or defaults.system
    if body.raw:
        if body.system:
            raise _wrong("system", "raw mode does not support it; write it into the prompt")
        request = Request(text=prompt, grammar=grammar)
    else:
        messages = [{"role": "user", "content": prompt}]
        if system:
            messages.insert(0, {"role": "system", "content": system})
        request = Request(messages=tuple(messages), grammar=grammar)
    return _with_settings(request, body, defaults)


def embed_request(body: EmbedBody) -> EmbedRequest:
    """Texts to turn into vectors."""
    if body.dimensions is not None and body.dimensions < 1:
        raise _wrong("dimensions", "must be at least 1")
    given = body.input or ()
    texts = (given,) if isinstance(given, str) else tuple(given)
    return EmbedRequest(texts, truncate=body.truncate is not False)


def keep_alive(value: float | str) -> float | None:
    """Seconds that a model shall stay in memory unused, None for ever.

    Refuses what is neither a number of seconds nor a duration.
    """
    if isinstance(value, str):
        if not _DURATION.fullmatch(value):
            raise _wrong(
                "keep_alive", f'must be a number or a duration like "5m", not {value[:40]!r}'
            )
        sign = -1.0 if value.startswith("-") else 1.0
        parts = _PART.findall(value)
        value = sign * (
            sum(float(number) * _SECONDS[unit] for number, unit in parts)
            if parts
            else float(value.lstrip("+-"))
        )
    if math.isnan(value):
        raise _wrong("keep_alive", "must be a number of seconds")
    return None if value < 0 or value > _LONGEST else float(value)


def _with_settings(
    request: Request, body: ChatRequest | GenerateRequest, defaults: Defaults
) -> Request:
    options = body.options or Options()
    most = defaults.max_tokens
    if options.num_predict is not None:
        asked = int(options.num_predict) if options.num_predict > 0 else None
        most = limit(**{"options.num_predict": asked})
    return replace(
        request,
        sampling=_sampling(options, defaults.sampling),
        max_tokens=most,
        stop=stops(options.stop, "options.stop"),
        logprobs=_logprobs(body),
        template_arguments=_thinking(body.think),
    )


def _sampling(options: Options, defaults: Sampling) -> Sampling:
    values = {name: getattr(options, name) for name in _SAMPLING}
    try:
        return choose(values, defaults)
    except Problem as problem:
        message, param = f"options.{problem.message}", f"options.{problem.param}"
        raise Problem(problem.status, message, param) from None


def _logprobs(body: ChatRequest | GenerateRequest) -> int | None:
    wanted = body.top_logprobs or 0
    if not 0 <= wanted <= MAX_TOP_LOGPROBS:
        raise _wrong("top_logprobs", f"must be from 0 to {MAX_TOP_LOGPROBS}")
    return wanted if body.logprobs else None


def _thinking(think: bool | str | None) -> dict[str, Any]:
    if think is None:
        return {}
    if isinstance(think, bool):
        return {"enable_thinking": think}
    if think not in _EFFORTS:
        raise _wrong("think", 'must be true, false, "low", "medium" or "high"')
    return {"enable_thinking": True, "reasoning_effort": think}


def _tools(tools: Sequence[Tool]) -> tuple[dict[str, Any], ...]:
    for number, tool in enumerate(tools):
        if tool.type != "function":
            raise _wrong(f"tools[{number}].type", "only functions are supported")
    functions = [tool.function for tool in tools]
    offered = [(one.name, one.description, one.parameters) for one in functions]
    return functions_of(offered, ".function")


def _plain(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The messages in OpenAI's shape. A result names at most the function it comes from there,
    the call in OpenAI's: each goes to the first call that waits for one."""
    plain: list[dict[str, Any]] = []
    waiting: deque[tuple[str, str]] = deque()
    for number, message in enumerate(messages):
        made: dict[str, Any] = {"role": message.role, "content": message.content or ""}
        if message.thinking:
            made["reasoning_content"] = message.thinking
        if message.tool_calls:
            made["tool_calls"] = [
                {
                    "id": call.id or f"call_{number}_{place}",
                    "type": "function",
                    "function": {
                        "name": call.function.name,
                        "arguments": msgspec.json.encode(call.function.arguments).decode(),
                    },
                }
                for place, call in enumerate(message.tool_calls)
            ]
            waiting = deque((call["id"], call["function"]["name"]) for call in made["tool_calls"])
        if message.role == "tool":
            made.update(_answered(message, waiting))
        plain.append(made)
    return plain


def _answered(message: Message, waiting: deque[tuple[str, str]]) -> dict[str, str]:
    """Which call a result belongs to; that one waits no longer."""
    for entry in waiting:
        identity, name = entry
        if message.tool_call_id in (None, "", identity) and message.tool_name in (None, "", name):
            waiting.remove(entry)
            return {"tool_call_id": identity, "name": name}
    found = {"tool_call_id": message.tool_call_id, "name": message.tool_name}
    return {key: value for key, value in found.items() if value}


def _no_images(where: str) -> Problem:
    return _wrong(where, "this model reads text only")


def _wrong(where: str, message: str) -> Problem:
    return Problem(400, f"{where}: {message}", where)
