"""From what clients of Anthropic's API ask to what the engine is asked. Nothing about HTTP.

Everything here raises Problem (400), with the path of the field, for what is out of bounds or
not supported.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from runtime_stub.engine.messages import Request, TokenizeRequest
from runtime_stub.server.anthropic_types import (
    Block,
    CountRequest,
    DocumentBlock,
    ImageBlock,
    Message,
    MessagesRequest,
    RedactedThinkingBlock,
    TextBlock,
    ThinkingBlock,
    Tool,
    ToolChoice,
    ToolResultBlock,
    ToolUseBlock,
)
from runtime_stub.server.functions import functions_of
from runtime_stub.server.replies import Problem
from runtime_stub.server.sampling import choose, limit, stops
from runtime_stub.server.state import Defaults

_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def messages_request(body: MessagesRequest, defaults: Defaults, grammar: str | None) -> Request:
    """A conversation to continue. The pack's own settings hold where the client says nothing."""
    if body.messages and body.messages[-1].role == "assistant":
        raise _wrong(
            f"messages[{len(body.messages) - 1}].role",
            "the last message must not be the assistant's: continuing it is not supported",
        )
    sampling = {name: getattr(body, name) for name in ("temperature", "top_p", "top_k")}
    choice = body.tool_choice
    return Request(
        messages=tuple(_messages(body, defaults)),
        sampling=choose(sampling, defaults.sampling),
        max_tokens=limit(max_tokens=body.max_tokens),
        stop=stops(body.stop_sequences, "stop_sequences"),
        grammar=grammar,
        tools=_tools(body.tools or ()),
        tool_choice=_tool_choice(choice, body.tools or ()),
        parallel_tool_calls=not (choice is not None and choice.disable_parallel_tool_use),
        whole_calls=not body.stream,
        template_arguments={"enable_thinking": _thinks(body)},
    )


def count_request(body: CountRequest, defaults: Defaults) -> TokenizeRequest:
    """The same conversation, to be counted."""
    offered = body.tools or ()
    unused = _tool_choice(body.tool_choice, offered) == "none"
    return TokenizeRequest(
        messages=tuple(_messages(body, defaults)),
        tools=() if unused else _tools(offered),
        template_arguments={"enable_thinking": _thinks(body)},
    )


def shows_thinking(body: MessagesRequest) -> bool:
    """Whether the client is to be told what the model thinks."""
    return _thinks(body) and body.thinking is not None and body.thinking.display != "omitted"


def _thinks(body: CountRequest) -> bool:
    return body.thinking is not None and body.thinking.type in ("enabled", "adaptive")


def _messages(body: CountRequest, defaults: Defaults) -> list[dict[str, Any]]:
    if not body.messages:
        raise _wrong("messages", "must not be empty")
    made: list[dict[str, Any]] = []
    system = body.system
    if isinstance(system, list):
        system = "\n".join(block.text for block in system)
    if not system and body.messages[0].role != "system":
        system = defaults.system
    if system:
        made.append({"role": "system", "content": system})
    for number, message in enumerate(body.messages):
        for new in _plain(message, f"messages[{number}].content"):
            before = made[-1] if made else {}
            # Turns of one side are one turn, which is what templates want.
            if before.keys() == new.keys() == {"role", "content"} and (
                before["role"] == new["role"]
            ):
                made[-1] = {**before, "content": f"{before['content']}\n{new['content']}"}
            else:
                made.append(new)
    return made


def _plain(message: Message, where: str) -> Iterator[dict[str, Any]]:
    """The message in OpenAI's shape, where results of tools are messages of their own."""
    content = message.content
    blocks: Sequence[Block] = [TextBlock(content)] if isinstance(content, str) else content
    if message.role == "assistant":
        yield _assistant(blocks, where)
        return
    texts: list[str] = []
    for number, block in enumerate(blocks):
        if isinstance(block, TextBlock):
            texts.append(block.text)
        elif isinstance(block, ToolResultBlock) and message.role == "user":
            if texts:
                yield {"role": "user", "content": "\n".join(texts)}
                texts = []
            yield _result(block, f"{where}[{number}]")
        else:
            raise _misplaced(block, message.role, f"{where}[{number}]")
    if texts or not blocks:
        yield {"role": message.role, "content": "\n".join(texts)}


def _assistant(blocks: Sequence[Block], where: str) -> dict[str, Any]:
    texts, thoughts, calls = [], [], []
    for number, block in enumerate(blocks):
        if isinstance(block, TextBlock):
            texts.append(block.text)
        elif isinstance(block, ThinkingBlock):
            thoughts.append(block.thinking)
        elif isinstance(block, ToolUseBlock):
            arguments = msgspec.json.encode(block.input).decode()
            function = {"name": block.name, "arguments": arguments}
            calls.append({"id": block.id, "type": "function", "function": function})
        elif not isinstance(block, RedactedThinkingBlock):
            raise _misplaced(block, "assistant", f"{where}[{number}]")
    made: dict[str, Any] = {"role": "assistant", "content": "\n".join(texts)}
    if thoughts:
        made["reasoning_content"] = "\n".join(thoughts)
    if calls:
        made["tool_calls"] = calls
    return made


def _result(block: ToolResultBlock, where: str) -> dict[str, Any]:
    content = block.content or ""
    if not isinstance(content, str):
        texts = []
        for number, part in enumerate(content):
            if not isinstance(part, TextBlock):
                raise _misplaced(part, "user", f"{where}.content[{number}]")
            texts.append(part.text)
        content = "\n".join(texts)
    if block.is_error:
        content = f"Error: {content}"
    return {"role": "tool", "tool_call_id": block.tool_use_id, "content": content}


def _tools(tools: Sequence[Tool]) -> tuple[dict[str, Any], ...]:
    for number, tool in enumerate(tools):
        if tool.type not in (None, "custom"):
            raise _wrong(f"tools[{number}].type", f"{tool.type[:40]!r} does not run here")
        if tool.input_schema is None:
            raise _wrong(f"tools[{number}].input_schema", "is missing")
    return functions_of([(tool.name, tool.description, tool.input_schema) for tool in tools])


def _tool_choice(choice: ToolChoice | None, tools: Sequence[Tool]) -> str:
    if choice is None:
        return "auto"
    if choice.type in ("any", "tool") and not tools:
        raise _wrong("tool_choice", "there are no tools")
    if choice.type != "tool":
        return _CHOICES[choice.type]
    if choice.name not in [tool.name for tool in tools]:
        raise _wrong("tool_choice.name", f"there is no tool {choice.name!r}")
    return f"function:{choice.name}"


def _misplaced(block: Block, role: str, where: str) -> Problem:
    if isinstance(block, (ImageBlock, DocumentBlock)):
        return _wrong(where, "this model reads text only")
    return _wrong(where, f"a block of this type does not belong to the role {role!r}")


def _wrong(where: str, message: str) -> Problem:
    return Problem(400, f"{where}: {message}", where)
