"""Tools and their calls on the way in: messages in OpenAI's shape, made fit for a template.

Templates differ in what they know: tools, calls, results, system messages, arguments as objects
or as text. `probe` finds out by rendering; `prepare` arranges messages accordingly. What a
template does not know is said in plain messages, in the words and syntax of the family.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from runtime_stub.engine.families import Family
from runtime_stub.engine.frames import Call, write_calls
from runtime_stub.errors import PromptError

Message = dict[str, Any]


class Template(Protocol):
    """As much of `template.ChatTemplate` as is needed."""

    def render(self, messages: Sequence[Mapping[str, Any]], **arguments: Any) -> str:
        """The prompt; raises PromptError when the template fails or refuses."""


@dataclass(frozen=True)
class Abilities:
    """What a chat template knows of."""

    system: bool = True
    """System messages."""
    tools: bool = False
    """Tools that are offered."""
    calls: bool = False
    """Calls that the assistant made."""
    results: bool = False
    """What the calls brought."""
    text_arguments: bool = False
    """Wants arguments as JSON text; otherwise as an object."""
    null_content: bool = False
    """Sees calls only where the content is null; otherwise it wants a text."""
    several: bool = False
    """Several calls in one message."""
    short_ids: bool = False
    """Takes only ids of nine letters and digits."""


@dataclass(frozen=True)
class Prepared:
    """What to render."""

    messages: list[Message]
    arguments: dict[str, Any] = field(default_factory=dict)
    """Variables for the template."""


# Words that occur in no template.
_CALLED, _SECOND, _VALUE, _RESULT, _SYSTEM = (
    f"probe_{word}" for word in ("called", "second", "value", "result", "system")
)
_IDS = ("probe0001", "probe0002")
_USER: Message = {"role": "user", "content": "probe"}
_TOOL = {
    "type": "function",
    "function": {
        "name": _CALLED,
        "description": "A probe.",
        "parameters": {
            "type": "object",
            "properties": {"key": {"type": "string", "description": "A key."}},
            "required": ["key"],
        },
    },
}


def probe(template: Template) -> Abilities:
    """What `template` can do, seen from what it makes of a few messages."""
    system = _SYSTEM in _render(template, [{"role": "system", "content": _SYSTEM}, _USER])
    tools = _CALLED in _render(template, [_USER], **_variables([_TOOL]))
    for null_content in (False, True):
        for text_arguments in (False, True):
            chat = _chat(text_arguments=text_arguments, null_content=null_content)
            text = _render(template, chat[:2])
            if _CALLED in text and _VALUE in text and not _is_mangled(text):
                with_result = _render(template, chat)
                several = _chat(
                    text_arguments=text_arguments, null_content=null_content, several=True
                )
                other_ids = json.loads(json.dumps(chat).replace(_IDS[0], "call_0123456789abcdef"))
                return Abilities(
                    system=system,
                    tools=tools,
                    calls=True,
                    results=_RESULT in with_result,
                    text_arguments=text_arguments,
                    null_content=null_content,
                    several=_SECOND in _render(template, several),
                    short_ids=bool(with_result) and not _render(template, other_ids),
                )
    plain = [_USER, {"role": "assistant", "content": "probe"}, _result(0)]
    return Abilities(system=system, tools=tools, results=_RESULT in _render(template, plain))


def _render(template: Template, messages: list[Message], **arguments: Any) -> str:
    try:
        return template.render(messages, **arguments)
    except PromptError:
        return ""


def _is_mangled(text: str) -> bool:
    """Whether arguments came out as Python's idea of an object, or as text within text."""
    return "{'key'" in text or '\\"key' in text


def _chat(*, text_arguments: bool, null_content: bool, several: bool = False) -> list[Message]:
    arguments: Any = {"key": _VALUE}
    if text_arguments:
        arguments = json.dumps(arguments)
    names = (_CALLED, _SECOND) if several else (_CALLED,)
    calls = [
        {
            "id": identity,
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        }
        for name, identity in zip(names, _IDS, strict=False)
    ]
    assistant = {
        "role": "assistant",
        "content": None if null_content else "",
        "tool_calls": calls,
    }
    return [_USER, assistant, *(_result(number) for number in range(len(names)))]


def _result(number: int) -> Message:
    name = (_CALLED, _SECOND)[number]
    return {"role": "tool", "tool_call_id": _IDS[number], "name": name, "content": _RESULT}


def prepare(
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    abilities: Abilities,
    family: Family,
) -> Prepared:
    """Messages and tools in OpenAI's shape, as the template wants them.

    Nothing that is passed in is changed. Raises PromptError for calls without a name.
    """
    made = [dict(message) for message in messages]
    _name_results(made)
    if family.syntax != "harmony":
        for message in made:
            if message.get("role") == "developer":
                message["role"] = "system"
    made = [new for message in made for new in _assistant(message, abilities, family)]
    if abilities.calls and not abilities.several:
        made = _one_call_each(made)
    if not abilities.results:
        made = _told_results(made)
    offered = [dict(tool) for tool in tools]
    arguments = _variables(offered) if offered and abilities.tools else {}
    if offered and not abilities.tools:
        made = _with_system(made, describe_tools(offered, family))
    if not abilities.system:
        made = _without_system(made)
    if abilities.short_ids:
        made = [_with_short_ids(message) for message in made]
    return Prepared(made, arguments)


def _variables(tools: list[Any]) -> dict[str, Any]:
    # Granite 3 calls them available_tools, SmolLM 3 xml_tools.
    return {"tools": tools, "available_tools": tools, "xml_tools": tools}


def _name_results(messages: list[Message]) -> None:
    """Give results the name of the function, which some templates print."""
    names: dict[object, str] = {}
    for message in messages:
        for call in message.get("tool_calls") or ():
            names[call.get("id")] = (call.get("function") or {}).get("name", "")
        if message.get("role") == "tool" and not message.get("name"):
            name = names.get(message.get("tool_call_id"))
            if name:
                message["name"] = name


def _assistant(message: Message, abilities: Abilities, family: Family) -> list[Message]:
    """An assistant's message with its reasoning and calls in the template's terms."""
    if message.get("role") != "assistant":
        return [message]
    made = {key: value for key, value in message.items() if key != "tool_calls"}
    content = made["content"] = message.get("content") or ""
    if message.get("reasoning_content"):
        # The same thing under another name, for gpt-oss and LFM2.
        made.setdefault("thinking", message["reasoning_content"])
    entries = message.get("tool_calls")
    if not entries:
        # Templates tell messages with calls from others by the mere presence of the key.
        return [made]
    calls = [_read_call(entry) for entry in entries]
    if not abilities.calls:
        text = write_calls(family, calls)
        return [{**made, "content": f"{_text(content)}\n{text}" if content else text}]
    made["tool_calls"] = [
        {
            "id": str(entry.get("id") or ""),
            "type": "function",
            "function": {
                "name": call.name,
                "arguments": (
                    json.dumps(call.arguments, ensure_ascii=False)
                    if abilities.text_arguments
                    else call.arguments
                ),
            },
        }
        for entry, call in zip(entries, calls, strict=True)
    ]
    if abilities.null_content:
        said = [{"role": "assistant", "content": content}] if content else []
        return [*said, {**made, "content": None}]
    if family.syntax == "harmony" and made.get("thinking"):
        # The template takes one of the two, and reasoning explains the call.
        made["content"] = ""
    return [made]


def _read_call(entry: Mapping[str, Any]) -> Call:
    function = entry.get("function") or {}
    name, arguments = function.get("name"), function.get("arguments")
    if not isinstance(name, str) or not name:
        raise PromptError("a tool call in the messages has no function name")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError):
            # The model's own slip, sent back: a conversation must not end there.
            arguments = {"unreadable": arguments}
    if arguments is None:
        arguments = {}
    return Call(name, arguments if isinstance(arguments, dict) else {"value": arguments})


def _one_call_each(messages: list[Message]) -> list[Message]:
    """Several calls in one message become as many messages, each with its result behind it."""
    made: list[Message] = []
    results = {
        message.get("tool_call_id"): number
        for number, message in enumerate(messages)
        if message.get("role") == "tool"
    }
    moved: set[int] = set()
    for number, message in enumerate(messages):
        calls = message.get("tool_calls") or ()
        if len(calls) < 2:
            if number not in moved:
                made.append(message)
            continue
        for place, call in enumerate(calls):
            first = place == 0
            made.append({**message, "tool_calls": [call]} if first else _bare_call(message, call))
            found = results.get(call["id"])
            if found is not None and found > number and found not in moved:
                made.append(messages[found])
                moved.add(found)
    return made


def _bare_call(message: Message, call: Any) -> Message:
    empty = None if message.get("content") is None else ""
    return {"role": "assistant", "content": empty, "tool_calls": [call]}


def _told_results(messages: list[Message]) -> list[Message]:
    """Results as the user's words, for templates without a role for them."""
    made: list[Message] = []
    told = False
    for message in messages:
        is_result = message.get("role") == "tool"
        if is_result:
            content = _text(message.get("content"))
            text = f"<tool_response>\n{content}\n</tool_response>"
            message = {"role": "user", "content": text}  # noqa: PLW2901
        if told and message.get("role") == "user":
            # Many such templates want user and assistant to take turns.
            before = made[-1]["content"]
            made[-1] = {**made[-1], "content": f"{before}\n{_text(message.get('content'))}"}
        else:
            made.append(message)
            told = is_result
    return made


def describe_tools(tools: Sequence[Mapping[str, Any]], family: Family) -> str:
    """What to tell a model whose template does not: which tools there are and how to call one."""
    listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    example = write_calls(family, [Call("function_name", {"argument_name": "value"})])
    return (
        "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
        "You are provided with function signatures within <tools></tools> XML tags:\n"
        f"<tools>\n{listed}\n</tools>\n\n"
        "To call a function, write exactly this, with the function's name and arguments:\n"
        f"{example}"
    )


def _with_system(messages: list[Message], text: str) -> list[Message]:
    if messages and messages[0].get("role") in {"system", "developer"}:
        first = messages[0]
        content = _text(first.get("content"))
        return [{**first, "content": f"{content}\n\n{text}"}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def _without_system(messages: list[Message]) -> list[Message]:
    """The system's words said by the user, for templates that refuse or drop the former."""
    told = [_text(message.get("content")) for message in messages if _is_system(message)]
    made = [message for message in messages if not _is_system(message)]
    if not told:
        return made
    text = "\n\n".join(told)
    for number, message in enumerate(made):
        if message.get("role") == "user":
            content = f"{text}\n\n{_text(message.get('content'))}"
            made[number] = {**message, "content": content}
            return made
    return [{"role": "user", "content": text}, *made]


def _is_system(message: Message) -> bool:
    return message.get("role") in {"system", "developer"}


def _text(content: object) -> str:
    """Content as one text."""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _with_short_ids(message: Message) -> Message:
    made = dict(message)
    if made.get("tool_call_id"):
        made["tool_call_id"] = _short(str(made["tool_call_id"]))
    if made.get("tool_calls"):
        made["tool_calls"] = [{**call, "id": _short(call["id"])} for call in made["tool_calls"]]
    return made


def _short(identity: str) -> str:
    """The id, or nine letters and digits that stand for it in calls and results alike."""
    if len(identity) == 9 and identity.isascii() and identity.isalnum():
        return identity
    return hashlib.sha256(identity.encode("utf-8", "replace")).hexdigest()[:9]
