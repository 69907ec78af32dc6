"""From the raw text of an answer to what it says: content, reasoning and tool calls.

The text comes in pieces, and so does the result. What could still become a tag is held back,
all else flows at once. The result depends on the text alone, not on how it was cut: adjacent
pieces of one kind, joined, are always the same.

A call that turns out to be none is content, tags and all. With `whole_calls` that holds to its
end; without, arguments are passed on as they come, and where they break off in the middle, what
follows the break is content.

An answer that was cut off may have ended within a tag or a call. What could still have become
one is then neither: it is left out, and a call whose arguments are being passed on just stops.
"""

from __future__ import annotations

import re
import secrets
import string
from collections.abc import Callable
from dataclasses import dataclass

from runtime_stub.engine.calls import CallReader, Schemas
from runtime_stub.engine.families import Family
from runtime_stub.engine.source import MalformedError, Source, Steps, Tags

MAX_FAILURES = 100
"""After so many calls that were none, tags are just text: each costs a second reading."""
_ALPHABET = string.ascii_letters + string.digits
_LONGEST_HEADER = 300
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_RECIPIENT = re.compile(r"\bto=([^\s<]+)")
_ENDS = Tags(("<|end|>", "<|call|>", "<|return|>", "<|start|>", "<|channel|>"))


@dataclass(frozen=True)
class Content:
    """A piece of the answer proper."""

    text: str


@dataclass(frozen=True)
class Reasoning:
    """A piece of the reasoning before it."""

    text: str


@dataclass(frozen=True)
class ToolCallStart:
    """A call begins. Its arguments follow before any other call's."""

    index: int
    id: str
    name: str


@dataclass(frozen=True)
class ToolCallArguments:
    """A piece of a call's arguments. Concatenated pieces are a JSON object."""

    index: int
    text: str


Piece = Content | Reasoning | ToolCallStart | ToolCallArguments


def new_identity() -> str:
    """A call's id. Nine letters and digits, since Mistral's templates accept nothing else."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(9))


class AnswerParser:
    """Parses one answer. Neither method ever raises for what the text is."""

    def __init__(
        self,
        family: Family,
        *,
        tools: bool,
        reasoning_open: bool = False,
        schemas: Schemas | None = None,
        whole_calls: bool = False,
        identify: Callable[[], str] = new_identity,
    ) -> None:
        """`tools`: whether calls are looked for. `reasoning_open`: whether the prompt ended in
        reasoning. `schemas` tell texts from numbers in syntaxes that do not. `whole_calls`
        keeps a call back until it is complete, for answers that are not streamed."""
        self._family = family
        self._tools = tools
        self._whole = whole_calls
        self._identify = identify
        self._source = Source()
        self._calls = CallReader(family, self._source, self, schemas or {})
        self._out: list[Piece] = []
        self._staged: list[Piece] = []
        self._count = 0
        self._failures = 0
        self._mark = 0
        """Where white space and the tag after it began; it goes with them."""
        self._safe = -1
        """Up to where the call being read has been passed on; -1 when nothing has."""
        self._after_block = False
        """Whether reasoning or a call has come; white space after it means nothing."""
        self._flowing: type[Content | Reasoning] | None = None
        """What the text is that is being passed on; None within tags and calls."""
        self._openers = Tags(family.openers if tools else (), family.ignored)
        harmony = family.syntax == "harmony"
        self._steps = (self._messages if harmony else self._answer)(reasoning_open)
        self._over = False

    def feed(self, text: str) -> list[Piece]:
        """What is certain after `text`, possibly nothing."""
        self._source.text += text
        return self._run()

    def finish(self, *, cut: bool = False) -> list[Piece]:
        """The rest: what was held back. `cut`: the model had more to say when the answer ended."""
        if cut:
            self._leave_out()
        self._source.ended = True
        return self._run()

    def _leave_out(self) -> None:
        """Pass nothing on of a tag or call that has begun: nobody knows what it would have become.

        The readers don't go on, for they would take what has no end to be no call.
        """
        rest = self._source.text[self._source.at :]
        if self._flowing and rest.isspace() and not self._over:
            # It was held back for a tag of which nothing has come.
            self._emit(self._flowing(rest))
        self._over = True

    def _run(self) -> list[Piece]:
        if not self._over:
            try:
                next(self._steps)
            except StopIteration:
                self._over = True
        pieces, self._out = self._out, []
        return pieces

    # The sink of calls.

    def start(self, name: str, identity: str | None = None) -> None:
        """See `calls.Sink`."""
        self._pass_on(ToolCallStart(self._count, identity or self._identify(), name))
        self._count += 1

    def put(self, text: str) -> None:
        """See `calls.Sink`."""
        self._pass_on(ToolCallArguments(self._count - 1, text))

    def done(self) -> None:
        """See `calls.Sink`."""
        for piece in self._staged:
            self._emit(piece)
        self._staged.clear()
        self._safe = self._source.at

    def _pass_on(self, piece: Piece) -> None:
        if self._whole:
            self._staged.append(piece)
        else:
            self._emit(piece)
            self._safe = self._source.at

    def _emit(self, piece: Piece) -> None:
        """Put a piece out, joined to the one before it where that is of its kind."""
        last = self._out[-1] if self._out else None
        if isinstance(piece, ToolCallStart):
            self._out.append(piece)
        elif not piece.text:
            return
        elif isinstance(piece, ToolCallArguments) and isinstance(last, ToolCallArguments):
            self._out[-1] = ToolCallArguments(piece.index, last.text + piece.text)
        elif isinstance(piece, Content) and isinstance(last, Content):
            self._out[-1] = Content(last.text + piece.text)
        elif isinstance(piece, Reasoning) and isinstance(last, Reasoning):
            self._out[-1] = Reasoning(last.text + piece.text)
        else:
            self._out.append(piece)

    # Answers as most families write them: reasoning, content, calls, in any number.

    def _answer(self, reasoning_open: bool) -> Steps[None]:
        fresh = True
        if reasoning_open:
            yield from self._reasoning(self._family.reasoning)
        while (yield from self._source.peek()):
            if fresh and (yield from self._begin()):
                continue
            opener = yield from self._flow(Content, self._openers)
            fresh = bool(opener) and (yield from self._call(opener, Content))

    def _begin(self) -> Steps[bool]:
        """Read what may stand where nothing but white space has come since the last block."""
        source = self._source
        self._mark = source.at
        following = yield from source.skip()
        if self._after_block:
            self._mark = source.at
        for tags in self._family.reasoning:
            if (yield from source.take(tags[0])):
                yield from self._reasoning((tags,))
                return True
        if self._tools:
            for opener in self._family.starts:
                if (yield from source.take(opener)):
                    return (yield from self._call(opener, Content))
            if self._family.bare and following in {"{", "["}:
                return (yield from self._call("", Content))
        source.at = self._mark
        return False

    def _reasoning(self, pairs: tuple[tuple[str, str], ...]) -> Steps[None]:
        source = self._source
        yield from source.skip()
        for opener, _ in pairs:
            # Some models open again what the prompt has opened.
            if (yield from source.take(opener)):
                yield from source.skip()
        closers = tuple(closer for _, closer in pairs)
        calls = self._tools and self._family.calls_end_reasoning
        ends = Tags((*closers, *(self._family.openers if calls else ())))
        while True:
            end = yield from self._flow(Reasoning, ends)
            if not end or end in closers or (yield from self._call(end, Reasoning)):
                break
        self._after_block = True

    def _flow(self, kind: type[Content | Reasoning], tags: Tags) -> Steps[str]:
        """Pass text on up to a tag, and answer which; empty at the end of the answer.

        White space before a tag is not passed on: it belongs to the tag.
        """
        source = self._source
        while True:
            found = tags.search(source.text, source.at)
            if found:
                before = source.text[source.at : found.start()]
                kept = before if found[0] in tags.ignored else before.rstrip()
                self._emit(kind(kept))
                self._mark = source.at + len(kept)
                source.at = found.end()
                if found[0] in tags.ignored:
                    continue
                return found[0]
            if source.ended:
                self._emit(kind(source.text[source.at :]))
                source.at = len(source.text)
                return ""
            held = tags.held(source.text, source.at)
            self._emit(kind(source.text[source.at : held]))
            source.at = held
            source.trim()
            self._flowing = kind
            yield
            self._flowing = None

    def _call(self, opener: str, kind: type[Content | Reasoning]) -> Steps[bool]:
        """Read calls; False where there were none, and the opener was passed on as text."""
        source = self._source
        mark, after = self._mark, source.at
        self._safe = -1
        try:
            if self._failures > MAX_FAILURES:
                raise MalformedError
            yield from self._calls.read(opener)
        except MalformedError:
            self._failures += 1
            self._abandon()
            source.at = self._safe if self._safe >= 0 else after
            if self._safe < 0:
                self._emit(kind(source.text[mark:after]))
            return False
        self._after_block = True
        return True

    def _abandon(self) -> None:
        """Forget the call that was kept back: it is none."""
        if self._staged:
            self._count -= 1
            self._staged.clear()

    # Harmony: every message has a header that says what it is.

    def _messages(self, reasoning_open: bool) -> Steps[None]:
        if reasoning_open:
            yield from self._body(Reasoning)
        while (yield from self._source.peek()):
            yield from self._message()

    def _message(self) -> Steps[None]:
        source = self._source
        source.trim()
        for beginning in ("<|start|>", "<|channel|>", "<|message|>", " to=", "assistant"):
            if (yield from source.take(beginning)):
                break
        else:
            yield from self._body(Content)
            return
        source.at = 0
        try:
            header, _ = yield from source.until("<|message|>", limit=_LONGEST_HEADER)
        except MalformedError:
            # No header after all: its first tag is text, and so is what follows.
            source.at = len(beginning)
            self._emit(Content(beginning))
            yield from self._body(Content)
            return
        channel = _CHANNEL.search(header)
        recipient = _RECIPIENT.search(header)
        if recipient and recipient[1] != "assistant":
            yield from self._addressed(recipient[1])
        else:
            analysis = bool(channel) and channel[1] == "analysis"  # type: ignore[index]
            yield from self._body(Reasoning if analysis else Content)

    def _addressed(self, recipient: str) -> Steps[None]:
        source = self._source
        after = source.at
        self._safe = -1
        try:
            if not self._tools or (yield from source.skip()) != "{":
                raise MalformedError
            self.start(recipient.removeprefix("functions."))
            yield from self._calls.arguments()
        except MalformedError:
            self._abandon()
            if self._safe < 0:
                self._emit(Content(source.text[:after]))
            source.at = self._safe if self._safe >= 0 else after
            yield from self._body(Content)
            return
        yield from source.skip()
        for tag in _ENDS.tags:
            if (yield from source.take(tag)):
                break

    def _body(self, kind: type[Content | Reasoning]) -> Steps[None]:
        end = yield from self._flow(kind, _ENDS)
        if end in {"<|start|>", "<|channel|>"}:
            self._source.at -= len(end)
