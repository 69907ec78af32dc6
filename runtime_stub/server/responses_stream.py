"""Builds the output of /v1/responses, and tells each step as its stream does."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

from runtime_stub.engine.messages import Event, Failed, Finished, Reasoning, Text, ToolCall
from runtime_stub.server.openai_chat import logprobs_of
from runtime_stub.server.replies import plain, problem_of
from runtime_stub.server.responses_reply import (
    CallOutput,
    Incomplete,
    MessageOutput,
    Output,
    ReasoningOutput,
    Response,
    ResponseError,
    TextContent,
    usage_of,
)
from runtime_stub.server.responses_types import ReasoningText

Document = dict[str, Any]


class Reply:
    """One response, growing from the engine's events."""

    def __init__(self, response: Response) -> None:
        """`response` has no output yet."""
        self.response = response
        self._open: Output | None = None
        self._calls = 0
        self._told = 0

    def begin(self) -> Iterator[Document]:
        """What a stream opens with."""
        yield self._tell("response.created", response=plain(self.response))
        yield self._tell("response.in_progress", response=plain(self.response))

    def take(self, event: Event) -> list[Document]:
        """Take in one event of the first choice; what a stream tells of it."""
        return list(self._take(event))

    def _take(self, event: Event) -> Iterator[Document]:
        if isinstance(event, Text):
            if event.text or event.logprobs:
                yield from self._text(event)
        elif isinstance(event, Reasoning):
            yield from self._thought(event.text)
        elif isinstance(event, ToolCall):
            yield from self._call(event)
        elif isinstance(event, Finished):
            yield from self._finish(event)
        elif isinstance(event, Failed):
            self.response.status = "failed"
            self.response.error = ResponseError("server_error", problem_of(event).message)
            yield self._tell("response.failed", response=plain(self.response))

    def _text(self, event: Text) -> Iterator[Document]:
        item = self._open
        if not isinstance(item, MessageOutput):
            item = MessageOutput(id=_identity("msg"), content=[TextContent()])
            yield from self._begin(item)
        logprobs = logprobs_of(event.logprobs).content
        item.content[0].text += event.text
        item.content[0].logprobs.extend(logprobs)
        yield self._tell_part(
            "response.output_text.delta", delta=event.text, logprobs=plain(logprobs)
        )

    def _thought(self, text: str) -> Iterator[Document]:
        item = self._open
        if not isinstance(item, ReasoningOutput):
            item = ReasoningOutput(id=_identity("rs"), content=[ReasoningText("")])
            yield from self._begin(item)
        item.content[0].text += text
        yield self._tell_part("response.reasoning_text.delta", delta=text)

    def _call(self, event: ToolCall) -> Iterator[Document]:
        item = self._open
        if event.index >= self._calls or not isinstance(item, CallOutput):
            self._calls = event.index + 1
            item = CallOutput(id=_identity("fc"), call_id=event.identity, name=event.name)
            yield from self._begin(item)
        if event.arguments:
            item.arguments += event.arguments
            yield self._tell_item("response.function_call_arguments.delta", delta=event.arguments)

    def _begin(self, item: Output) -> Iterator[Document]:
        yield from self._end("completed")
        self._open = item
        self.response.output.append(item)
        shown = plain(item)
        if isinstance(item, CallOutput):
            yield self._tell_item("response.output_item.added", item=shown)
            return
        part = shown["content"].pop()
        yield self._tell_item("response.output_item.added", item=shown)
        yield self._tell_part("response.content_part.added", part=part)

    def _end(self, status: str) -> Iterator[Document]:
        item = self._open
        if item is None:
            return
        item.status = status
        if isinstance(item, CallOutput):
            yield self._tell_item(
                "response.function_call_arguments.done", name=item.name, arguments=item.arguments
            )
        else:
            part = plain(item.content[0])
            if isinstance(item, MessageOutput):
                told = {"text": part["text"], "logprobs": part["logprobs"]}
                yield self._tell_part("response.output_text.done", **told)
            else:
                yield self._tell_part("response.reasoning_text.done", text=part["text"])
            yield self._tell_part("response.content_part.done", part=part)
        yield self._tell_item("response.output_item.done", item=plain(item))
        self._open = None

    def _finish(self, event: Finished) -> Iterator[Document]:
        if not self.response.output:  # clients look for a message, be it empty
            yield from self._begin(MessageOutput(id=_identity("msg"), content=[TextContent()]))
        status = "incomplete" if event.reason == "length" else "completed"
        yield from self._end(status)
        self.response.status = status
        self.response.usage = usage_of(event.usage)
        if status == "incomplete":
            self.response.incomplete_details = Incomplete("max_output_tokens")
        yield self._tell(f"response.{status}", response=plain(self.response))

    def _tell_part(self, kind: str, **more: Any) -> Document:
        return self._tell_item(kind, content_index=0, **more)

    def _tell_item(self, kind: str, **more: Any) -> Document:
        index = len(self.response.output) - 1
        # The events that bring the item itself don't name it besides.
        if "item" not in more:
            more["item_id"] = self.response.output[index].id
        return self._tell(kind, output_index=index, **more)

    def _tell(self, kind: str, **more: Any) -> Document:
        self._told += 1
        return {"type": kind, "sequence_number": self._told - 1, **more}


def _identity(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(16)}"
