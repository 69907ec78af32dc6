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
class Choice:
    """One of the answers to a prompt."""

    reason: str = ""
    """Why it ended, as in ChoiceEnd; "" while it has not."""
    stop: str | None = None
    """The stop string that ended it, if one did."""
    calls: list[Call] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The answer, without reasoning and calls."""
        return "".join(self.texts)

    @property
    def reasoning(self) -> str:
        """What the model thought before it answered."""
        return "".join(self.thoughts)


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
            choice.texts.append(event.text)
            choice.logprobs.extend(event.logprobs)
        elif isinstance(event, Reasoning):
            self._choice(event.choice).thoughts.append(event.text)
        elif isinstance(event, ToolCall):
            calls = self._choice(event.choice).calls
            while len(calls) <= event.index:
                calls.append(Call("", "", ""))
            call = calls[event.index]
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
