"""Conversations as files: JSON to go on with, Markdown to read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from runtime_stub.errors import FormatError

_KIND = "satchel-conversation"


@dataclass(frozen=True)
class Exchange:
    """A question and its answer, as far as it came."""

    question: str
    answer: str


@dataclass(frozen=True)
class Transcript:
    """All that a conversation consists of."""

    system: str | None
    exchanges: tuple[Exchange, ...]
    pack: str = ""
    """The name of the pack that answered."""


def json_of(transcript: Transcript) -> bytes:
    """The conversation for `from_json`."""
    messages = [{"role": "system", "content": transcript.system}] if transcript.system else []
    for exchange in transcript.exchanges:
        messages.append({"role": "user", "content": exchange.question})
        messages.append({"role": "assistant", "content": exchange.answer})
    document = {"kind": _KIND, "version": 1, "pack": transcript.pack, "messages": messages}
    return _encoded(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def from_json(data: bytes, name: str) -> Transcript:
    """A conversation from what `json_of` made, or any JSON with OpenAI's messages.

    Raises FormatError, calling it by `name`, when it holds something else.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise FormatError(f"{name} is no JSON", "Name a file that /save has written") from None
    messages = document.get("messages") if isinstance(document, dict) else document
    if not isinstance(messages, list):
        raise FormatError(f"{name} holds no conversation", "Name a file that /save has written")
    pack = document.get("pack") if isinstance(document, dict) else ""
    return _transcript(messages, pack if isinstance(pack, str) else "", name)


def markdown_of(transcript: Transcript) -> bytes:
    """The conversation for people to read, as a Markdown document."""
    return _encoded(markdown(transcript))


def markdown(transcript: Transcript) -> str:
    """The conversation as a Markdown document."""
    parts = [f"# {transcript.pack or 'Conversation'}"]
    if transcript.system:
        parts.append(_quoted(transcript.system))
    for exchange in transcript.exchanges:
        parts += ["## Question", exchange.question, "## Answer", exchange.answer.strip()]
    return "\n\n".join(parts) + "\n"


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.splitlines())


def _transcript(messages: list[Any], pack: str, name: str) -> Transcript:
    system: str | None = None
    exchanges: list[Exchange] = []
    question: str | None = None
    for number, message in enumerate(messages, 1):
        role, content = _message(message, number, name)
        if role == "system" and number == 1:
            system = content
        elif role == "user" and question is None:
            question = content
        elif role == "assistant" and question is not None:
            exchanges.append(Exchange(question, content))
            question = None
        else:
            raise FormatError(
                f"{name}: message {number} is out of turn ({role})",
                "Questions (user) and answers (assistant) must alternate",
            )
    if question is not None:
        raise FormatError(f"{name}: the last question has no answer", "Remove it, or answer it")
    return Transcript(system, tuple(exchanges), pack)


def _message(message: Any, number: int, name: str) -> tuple[str, str]:
    role = message.get("role") if isinstance(message, dict) else None
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(role, str) or not isinstance(content, str):
        raise FormatError(f"{name}: message {number} has no role or no text")
    # Half a surrogate pair, which JSON can hold and no model can read.
    return role, content.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "replace")
