"""From a chat request in OpenAI's shape to a request to the engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runtime_stub.engine.messages import Request
from runtime_stub.server.functions import functions_of
from runtime_stub.server.grammars import checked_grammar, json_grammar, schema_grammar
from runtime_stub.server.openai_types import (
    AdapterChoice,
    ChatRequest,
    Function,
    JsonFormat,
    Message,
    NamedTool,
    RefusalPart,
    SchemaFormat,
    TextFormat,
)
from runtime_stub.server.replies import Problem, plain
from runtime_stub.server.sampling import limit_or, sampling_of, stops
from runtime_stub.server.state import Served

MAX_CHOICES = 16
MAX_LOGPROBS = 20
MAX_TOOLS = 128
MAX_SCALE = 100
_TAKEN = ("messages", "tools", "self")
"""Variables of chat templates that are made of the rest of a request, or are Jinja's own."""


async def chat_request(chat: ChatRequest, model: Served) -> Request:
    """What to ask the engine. The pack's own settings hold where the client says nothing.

    Raises Problem (400) for values that are out of bounds or don't go together.
    """
    if not chat.messages:
        raise Problem(400, "messages must not be empty", "messages")
    messages = [message_of(message) for message in chat.messages]
    defaults = model.defaults
    tools = tools_of([tool.function for tool in chat.tools or ()])
    return Request(
        messages=with_system(messages, defaults.system),
        sampling=sampling_of(chat, defaults.sampling, model.engine.facts),
        max_tokens=limit_or(
            defaults.max_tokens,
            max_tokens=chat.max_tokens,
            max_completion_tokens=chat.max_completion_tokens,
        ),
        stop=stops(chat.stop),
        choices=bounded("n", chat.n, 1, MAX_CHOICES) or 1,
        logprobs=_logprobs(chat),
        grammar=await _grammar(chat),
        tools=tools,
        tool_choice=tool_choice(_choice(chat.tool_choice), tools),
        parallel_tool_calls=chat.parallel_tool_calls is not False,
        whole_calls=not chat.stream,
        reasoning=chat.reasoning_format != "none",
        template_arguments=template_arguments(chat.reasoning_effort, chat.chat_template_kwargs),
        fresh=chat.cache_prompt is False,
        adapters=adapters_of(chat.lora, model),
    )


def adapters_of(
    chosen: Sequence[AdapterChoice] | None, model: Served
) -> tuple[tuple[str, float | None], ...] | None:
    """The adapters that a request chooses, None where it says nothing. Raises Problem (400)."""
    if chosen is None:
        return None
    names = [adapter.name for adapter in model.adapters]
    found: list[tuple[str, float | None]] = []
    for number, choice in enumerate(chosen):
        place = f"lora[{number}]"
        if (choice.name is None) == (choice.id is None):
            raise Problem(400, f"{place}: either a name or an id is needed", place)
        name = choice.name
        if choice.id is not None:
            name = names[choice.id] if 0 <= choice.id < len(names) else f"number {choice.id}"
        if name not in names:
            known = ", ".join(names) or "none"
            raise Problem(400, f"{place}: there is no adapter {name!r}; known: {known}", place)
        if choice.scale is not None and not -MAX_SCALE <= choice.scale <= MAX_SCALE:
            raise Problem(400, f"{place}.scale: from -{MAX_SCALE} to {MAX_SCALE}", f"{place}.scale")
        found.append((name, choice.scale))
    return tuple(found)


def message_of(message: Message) -> dict[str, Any]:
    """A message as the engine takes it: plain, with its content as one text."""
    content = message.content
    if isinstance(content, list):
        content = "".join(
            part.refusal if isinstance(part, RefusalPart) else part.text for part in content
        )
    made: dict[str, Any] = {"role": message.role, "content": content or ""}
    for name in ("name", "tool_call_id", "reasoning_content"):
        value = getattr(message, name)
        if value is not None:
            made[name] = value
    if message.tool_calls:
        made["tool_calls"] = plain(message.tool_calls)
    return made


def with_system(
    messages: Sequence[dict[str, Any]], system: str | None
) -> tuple[dict[str, Any], ...]:
    """The messages behind the pack's system prompt, unless they bring one."""
    own = bool(messages) and messages[0]["role"] in ("system", "developer")
    head = [{"role": "system", "content": system}] if system and not own else []
    return (*head, *messages)


def bounded(name: str, value: int | None, low: int, high: int) -> int | None:
    """`value`, None for none. Raises Problem when it is out of bounds."""
    if value is not None and not low <= value <= high:
        raise Problem(400, f"{name} must be from {low} to {high}", name)
    return value


def tools_of(functions: Sequence[Function], place: str = ".function") -> tuple[dict[str, Any], ...]:
    """The functions as the engine takes them. `place` is where they are in each tool.

    Raises Problem (400) for more than OpenAI takes, and as `functions_of` does.
    """
    if len(functions) > MAX_TOOLS:
        raise Problem(400, f"tools: at most {MAX_TOOLS} are supported", "tools")
    offered = [(one.name, one.description, one.parameters) for one in functions]
    return functions_of(offered, place)


def tool_choice(choice: str | None, tools: Sequence[dict[str, Any]]) -> str:
    """`choice` as the engine takes it. Raises Problem if it asks for what is not among `tools`."""
    if choice is None or choice in ("auto", "none"):
        return choice or "auto"
    if not tools:
        raise Problem(400, "tool_choice asks for a tool, but there are no tools", "tool_choice")
    name = choice.removeprefix("function:")
    if choice != "required" and all(tool["name"] != name for tool in tools):
        raise Problem(400, f"tool_choice: there is no tool {name!r}", "tool_choice")
    return choice


def template_arguments(effort: str | None, further: dict[str, Any] | None) -> dict[str, Any]:
    """Variables for the chat template, from the names under which models know them.

    Raises Problem (400) for one that they know for something else.
    """
    for name in _TAKEN:
        if further and name in further:
            param = f"chat_template_kwargs.{name}"
            raise Problem(400, f"{param}: this variable is not for requests to set", param)
    if effort is None:
        return dict(further or {})
    thinking = {"enable_thinking": effort != "none"}
    told = {} if effort == "none" else {"reasoning_effort": effort}
    return {**thinking, **told, **(further or {})}


def _choice(choice: str | NamedTool | None) -> str | None:
    return f"function:{choice.function.name}" if isinstance(choice, NamedTool) else choice


def _logprobs(chat: ChatRequest) -> int | None:
    top = bounded("top_logprobs", chat.top_logprobs, 0, MAX_LOGPROBS)
    if top and not chat.logprobs:
        raise Problem(400, "top_logprobs is for requests with logprobs", "top_logprobs")
    return (top or 0) if chat.logprobs else None


async def _grammar(chat: ChatRequest) -> str | None:
    wanted = chat.response_format
    demanded = wanted is not None and not isinstance(wanted, TextFormat)
    if chat.grammar is not None:
        if demanded:
            raise Problem(400, "grammar and response_format exclude each other", "grammar")
        return await checked_grammar(chat.grammar, "grammar")
    if isinstance(wanted, SchemaFormat):
        param = "response_format.json_schema.schema"
        return await schema_grammar(wanted.json_schema.schema, param)
    if isinstance(wanted, JsonFormat):
        if wanted.schema is not None:
            return await schema_grammar(wanted.schema, "response_format.schema")
        return await json_grammar()
    return None
