"""A whole answer, put together from the engine's events."""

from __future__ import annotations

from dataclasses import dataclass, field

from runtime_stub.engine.messages import (
    ChoiceEnd,
    Event,
    Finished,
    Reasoning,
    Text,
    TokenLogprob,
    ToolCall,
    Usage,
)

NO_USAGE = Usage(0, 0, 0, 0.0, 0.0)


@dataclass
class Call:
    """One function the model wants called."""

    identity: str
    name: str
    arguments: str
    """JSON text."""


@dataclass
class Said:
    """Text or reasoning that nothing else came between."""

    kind: type[Text | Reasoning]
    pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self.pieces)


@dataclass
class Choice:
    """One of the answers to a prompt."""

    reason: str = ""
    """Why it ended, as in ChoiceEnd; "" while it has not."""
    stop: str | None = None
    """The stop string that ended it, if one did."""
    calls: list[Call] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    course: list[Said | Call] = field(default_factory=list)
    """All it consists of, in the order in which it came."""

    @property
    def text(self) -> str:
        """The answer, without reasoning and calls."""
        return self._said(Text)

    @property
    def reasoning(self) -> str:
        """What the model thought before it answered."""
        return self._said(Reasoning)

    def say(self, event: Text | Reasoning) -> None:
        """Take in a piece of either."""
        last = self.course[-1] if self.course else None
        if not isinstance(last, Said) or last.kind is not type(event):
            last = Said(type(event))
            self.course.append(last)
        last.pieces.append(event.text)

    def call(self, number: int) -> Call:
        """The call with this number, begun if need be."""
        while len(self.calls) <= number:
            call = Call("", "", "")
            self.calls.append(call)
            self.course.append(call)
        return self.calls[number]

    def _said(self, kind: type[Text | Reasoning]) -> str:
        said = (part for part in self.course if isinstance(part, Said) and part.kind is kind)
        return "".join(part.text for part in said)


@dataclass
class Answer:
    """What a request has brought so far."""

    choices: list[Choice] = field(default_factory=list)
    """By number; there is one at least once it is finished."""
    usage: Usage = NO_USAGE

    def add(self, event: Event) -> None:
        """Take in one event."""
        if isinstance(event, Text):
            choice = self._choice(event.choice)
            choice.say(event)
            choice.logprobs.extend(event.logprobs)
        elif isinstance(event, Reasoning):
            self._choice(event.choice).say(event)
        elif isinstance(event, ToolCall):
            call = self._choice(event.choice).call(event.index)
            call.identity += event.identity
            call.name += event.name
            call.arguments += event.arguments
        elif isinstance(event, ChoiceEnd):
            choice = self._choice(event.choice)
            choice.reason, choice.stop = event.reason, event.stop
        elif isinstance(event, Finished):
            self.usage = event.usage
            first = self._choice(0)
            first.stop = first.stop or event.stop
            for choice in self.choices:
                choice.reason = choice.reason or event.reason

    def _choice(self, number: int) -> Choice:
        while len(self.choices) <= number:
            self.choices.append(Choice())
        return self.choices[number]
