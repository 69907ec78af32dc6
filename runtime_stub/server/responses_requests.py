"""From the items of /v1/responses to a chat for the engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runtime_stub.engine.messages import Request
from runtime_stub.server.grammars import json_grammar, schema_grammar
from runtime_stub.server.openai_requests import (
    MAX_LOGPROBS,
    bounded,
    template_arguments,
    tool_choice,
    tools_of,
    with_system,
)
from runtime_stub.server.openai_types import Function
from runtime_stub.server.replies import Problem, convert
from runtime_stub.server.responses_types import (
    CallItem,
    CallOutputItem,
    Item,
    JsonFormat,
    MessageItem,
    NamedFunction,
    Part,
    ReasoningItem,
    Refusal,
    ResponseRequest,
    SchemaFormat,
)
from runtime_stub.server.sampling import limit_or, sampling_of
from runtime_stub.server.state import Served

LOGPROBS = "message.output_text.logprobs"
_KEPT_ELSEWHERE = "nothing is stored here; send the whole conversation as input"


async def response_request(asked: ResponseRequest, model: Served) -> Request:
    """What to ask the engine. Raises Problem (400) for what is not supported, and as for chats."""
    _refuse(asked)
    messages = messages_of(asked.input)
    if asked.instructions:
        messages.insert(0, {"role": "system", "content": asked.instructions})
    defaults = model.defaults
    functions = [
        Function(tool.name, tool.description, tool.parameters) for tool in asked.tools or ()
    ]
    tools = tools_of(functions, place="")
    named = asked.tool_choice
    choice = f"function:{named.name}" if isinstance(named, NamedFunction) else named
    effort = asked.reasoning.effort if asked.reasoning else None
    return Request(
        messages=with_system(messages, defaults.system),
        sampling=sampling_of(asked, defaults.sampling, model.engine.facts),
        max_tokens=limit_or(defaults.max_tokens, max_output_tokens=asked.max_output_tokens),
        logprobs=_logprobs(asked),
        grammar=await _grammar(asked),
        tools=tools,
        tool_choice=tool_choice(choice, tools),
        parallel_tool_calls=asked.parallel_tool_calls is not False,
        whole_calls=not asked.stream,
        template_arguments=template_arguments(effort, asked.chat_template_kwargs),
    )


def messages_of(given: str | list[Any]) -> list[dict[str, Any]]:
    """The chat that the input stands for. Raises Problem (400) that names the item."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if not given:
        raise Problem(400, "input must not be empty", "input")
    messages: list[dict[str, Any]] = []
    thoughts = ""
    for number, plain_item in enumerate(given):
        item = _item(plain_item, f"input[{number}]")
        if isinstance(item, ReasoningItem):
            # Where it is part of the conversation, templates look for it in the message after it.
            thoughts += "".join(part.text for part in item.content or ())
            continue
        if isinstance(item, CallItem) and messages and messages[-1]["role"] == "assistant":
            message = messages[-1]
        else:
            message = _message(item)
            messages.append(message)
        if isinstance(item, CallItem):
            message.setdefault("tool_calls", []).append(_call(item))
        if thoughts and message["role"] == "assistant":
            message.setdefault("reasoning_content", thoughts)
            thoughts = ""
    return messages


def _item(given: object, place: str) -> Item:
    if isinstance(given, dict) and "type" not in given:
        given = {**given, "type": "message"}
    item: Item = convert(given, Item, place)
    return item


def _message(item: MessageItem | CallItem | CallOutputItem) -> dict[str, Any]:
    if isinstance(item, MessageItem):
        return {"role": item.role, "content": _text(item.content)}
    if isinstance(item, CallOutputItem):
        return {"role": "tool", "tool_call_id": item.call_id, "content": _text(item.output)}
    return {"role": "assistant", "content": ""}


def _call(item: CallItem) -> dict[str, Any]:
    function = {"name": item.name, "arguments": item.arguments}
    return {"id": item.call_id, "type": "function", "function": function}


def _text(content: str | Sequence[Part]) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.refusal if isinstance(part, Refusal) else part.text for part in content)


def _refuse(asked: ResponseRequest) -> None:
    cache = asked.prompt_cache_options
    refused = {
        "previous_response_id": (asked.previous_response_id is not None, _KEPT_ELSEWHERE),
        "conversation": (asked.conversation is not None, _KEPT_ELSEWHERE),
        "background": (bool(asked.background), "an answer comes while its request is open"),
        "truncation": (asked.truncation == "auto", "input is never cut; shorten it yourself"),
        "context_management": (
            bool(asked.context_management),
            "input is never summed up; shorten it yourself",
        ),
        "prompt_cache_options.prewarm": (
            cache is not None and bool(cache.prewarm),
            "a prompt is kept with its answer; ask for one of a single token",
        ),
    }
    for name, (given, why) in refused.items():
        if given:
            raise Problem(400, f"{name} is not supported: {why}", name, "unsupported_parameter")


def _logprobs(asked: ResponseRequest) -> int | None:
    top = bounded("top_logprobs", asked.top_logprobs, 0, MAX_LOGPROBS)
    return (top or 0) if top or LOGPROBS in (asked.include or ()) else None


async def _grammar(asked: ResponseRequest) -> str | None:
    wanted = asked.text.format if asked.text else None
    if isinstance(wanted, SchemaFormat):
        return await schema_grammar(wanted.schema, "text.format.schema")
    return await json_grammar() if isinstance(wanted, JsonFormat) else None
