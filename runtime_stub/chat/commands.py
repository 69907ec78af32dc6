"""What can be typed instead of a question: `/help` and its like."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from runtime_stub.chat.conversation import Conversation
from runtime_stub.chat.counts import statistics_lines
from runtime_stub.chat.files import Files
from runtime_stub.chat.pack_models import Prepared
from runtime_stub.chat.transcript import from_json, json_of, markdown_of
from runtime_stub.engine.interface import AnyEngine
from runtime_stub.errors import InputError, RecipeError
from runtime_stub.recipe import SAMPLING, TOP
from runtime_stub.settings import Setting, check_value

SETTINGS: dict[str, Setting] = {**SAMPLING, "max_tokens": TOP["max_tokens"]}
"""What `/set` knows."""
DEFAULT = "default"
_COMMAND = re.compile(r"/([a-z]+)(?:\s+(.*))?\Z", re.DOTALL)


@dataclass(frozen=True)
class Outcome:
    """What came of a command, and what is to happen next."""

    notice: str = ""
    """A line to tell."""
    lines: Sequence[str] = ()
    """A listing to show; a tab divides a line into two columns."""
    ask: str | None = None
    """A question to ask now."""
    again: bool = False
    """Whether its answer takes the place of the last one."""
    edit: str | None = None
    """A question to give back for editing; what comes of it is asked `again`."""
    leave: bool = False


@dataclass(frozen=True)
class Command:
    """One command, for `/help` and completion."""

    arguments: str
    help: str
    run: Callable[[Commands, str], Outcome]


class Models(Protocol):
    """The pack's models, and which one answers."""

    @property
    def names(self) -> Sequence[str]:
        """All of them, in the pack's order."""

    @property
    def current(self) -> str:
        """The one that answers."""

    @property
    def engine(self) -> AnyEngine:
        """Its engine."""

    @property
    def prepared(self) -> Prepared:
        """What holds for it."""

    def switch(self, name: str) -> None:
        """Have another one answer from now on. Raises SatchelError."""


class Commands:
    """Carries commands out on a conversation."""

    def __init__(self, conversation: Conversation, models: Models, files: Files) -> None:
        self.conversation = conversation
        self.files = files
        self.models = models
        self.shows_reasoning = True
        """Whether to show what the model thinks before it answers."""
        self._defaults = conversation.template
        self._file: Path | None = None
        """Where the conversation was saved to last."""

    def run(self, line: str) -> Outcome | None:
        """What comes of `line`; None when it is no command but something to say.

        Raises SatchelError when it is one that can't be carried out.
        """
        found = _COMMAND.match(line)
        if found is None:
            return None
        name, arguments = found[1], (found[2] or "").strip()
        command = COMMANDS.get(name)
        if command is None:
            near = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f"Did you mean /{near[0]}?" if near else "/help lists the commands"
            raise InputError(f"there is no command /{name}", hint)
        return command.run(self, arguments)

    # One method a command, in the order of /help

    def help(self, _arguments: str) -> Outcome:
        lines = [
            f"/{name} {command.arguments}".rstrip() + f"\t{command.help}"
            for name, command in COMMANDS.items()
        ]
        return Outcome(lines=[*lines, "", *KEYS])

    def system(self, arguments: str) -> Outcome:
        conversation = self.conversation
        if not arguments:
            if conversation.system is None:
                return Outcome("There is no system prompt. /system TEXT gives one")
            return Outcome(lines=conversation.system.splitlines())
        conversation.instruct(None if arguments == "-" else arguments)
        if conversation.system is None:
            return Outcome("There is no system prompt any more. /undo brings it back")
        return Outcome("The system prompt is changed, for all that is asked from now on")

    def clear(self, _arguments: str) -> Outcome:
        if not self.conversation.exchanges:
            return Outcome("There is nothing to clear")
        self.conversation.clear()
        return Outcome("A new conversation. /undo brings the old one back")

    def undo(self, _arguments: str) -> Outcome:
        conversation = self.conversation
        before = conversation.transcript
        try:
            conversation.take_back()
        except IndexError:
            return Outcome("There is nothing to undo")
        if conversation.exchanges == before.exchanges[:-1] and before.exchanges:
            return Outcome(f"Taken back: {_brief(before.exchanges[-1].question)}")
        if conversation.exchanges == before.exchanges:
            return Outcome("The system prompt is as it was before")
        return Outcome(f"Back to a conversation of {_count(len(conversation.exchanges))}")

    def retry(self, _arguments: str) -> Outcome:
        question = self.conversation.question
        if question is None:
            return Outcome("There is no question to ask again")
        return Outcome(f"Asking again: {_brief(question)}", ask=question, again=self._answered())

    def edit(self, _arguments: str) -> Outcome:
        question = self.conversation.question
        if question is None:
            return Outcome("There is no question to edit")
        return Outcome(edit=question, again=self._answered())

    def save(self, arguments: str) -> Outcome:
        path, force = self._path(arguments, self._file)
        transcript = self.conversation.transcript
        self.files.write(path, json_of(transcript), replace=force or path == self._file)
        self._file = path
        return Outcome(f"Saved {_count(len(transcript.exchanges))} to {path}")

    def load(self, arguments: str) -> Outcome:
        path, _ = self._path(arguments, None)
        transcript = from_json(self.files.read(path), str(path))
        had = bool(self.conversation.exchanges)
        self.conversation.load(transcript)
        self._file = path
        text = f"Loaded {_count(len(transcript.exchanges))} from {path}"
        return Outcome(f"{text}. /undo leads back to the conversation before" if had else text)

    def export(self, arguments: str) -> Outcome:
        path, force = self._path(arguments, None)
        self.files.write(path, markdown_of(self.conversation.transcript), replace=force)
        return Outcome(f"Exported {_count(len(self.conversation.exchanges))} to {path}")

    def set(self, arguments: str) -> Outcome:
        name, _, text = (part.strip() for part in arguments.partition(" "))
        if not name:
            return Outcome(
                lines=[
                    f"{name} {_shown(self._value(name))}\t{setting.help}"
                    for name, setting in SETTINGS.items()
                ]
            )
        if name not in SETTINGS:
            near = difflib.get_close_matches(name, SETTINGS, n=1, cutoff=0.4)
            hint = f"Did you mean {near[0]}?" if near else "/set lists them"
            raise RecipeError(f"there is no setting {name!r}", hint)
        if not text:
            return Outcome(f"{name} is {_shown(self._value(name))}: {SETTINGS[name].help}")
        value = self._default(name) if text == DEFAULT else _number(name, text)
        template = self.conversation.template
        changes: dict[str, Any] = {name: value}
        if name in SAMPLING:
            changes = {"sampling": dataclasses.replace(template.sampling, **changes)}
        self.conversation.template = dataclasses.replace(template, **changes)
        return Outcome(f"{name} is {_shown(value)} now")

    def reasoning(self, arguments: str) -> Outcome:
        if arguments not in ("", "on", "off"):
            raise InputError(f"/reasoning can't be {arguments!r}", "Type /reasoning on, or off")
        self.shows_reasoning = not self.shows_reasoning if not arguments else arguments == "on"
        return Outcome(f"Reasoning is {'shown' if self.shows_reasoning else 'hidden'} from now on")

    def stats(self, _arguments: str) -> Outcome:
        conversation = self.conversation
        return Outcome(
            lines=statistics_lines(
                conversation.statistics, conversation.context, conversation.forgotten
            )
        )

    def model(self, arguments: str) -> Outcome:
        models, conversation = self.models, self.conversation
        if not arguments:
            facts = conversation.engine.facts
            lines = [f"{'*' if name == models.current else ' '} {name}" for name in models.names]
            if facts is not None:
                context = f"context of {facts.context:,} tokens ({facts.context_reason})"
                lines += [
                    "",
                    f"{facts.description}, {facts.parameters / 1e6:,.0f} million parameters",
                    f"{context}, {facts.threads} threads",
                ]
            return Outcome(lines=lines)
        if arguments not in models.names:
            raise InputError(
                f"there is no model {arguments!r} in this pack",
                f"It has {', '.join(models.names)}",
            )
        if arguments == models.current:
            return Outcome(f"{arguments} answers already")
        before = models.prepared
        models.switch(arguments)
        after = models.prepared
        system = after.system if conversation.system == before.system else conversation.system
        conversation.use(models.engine, after.request, system)
        self._defaults = after.request
        return Outcome(f"{arguments} answers from now on")

    def quit(self, _arguments: str) -> Outcome:
        return Outcome(leave=True)

    def _answered(self) -> bool:
        """Whether the last question is the one that was answered last."""
        exchanges = self.conversation.exchanges
        return bool(exchanges) and exchanges[-1].question == self.conversation.question

    def _path(self, arguments: str, default: Path | None) -> tuple[Path, bool]:
        force = arguments == "--force" or arguments.startswith("--force ")
        name = arguments.removeprefix("--force").strip() if force else arguments
        if len(name) > 1 and name[0] == name[-1] and name[0] in "'\"":
            name = name[1:-1]
        if not name:
            if default is None:
                raise InputError("no file is named", "Put its name behind the command")
            return default, force
        try:
            return Path(name).expanduser(), force
        except RuntimeError:
            return Path(name), force

    def _value(self, name: str) -> float | int | None:
        template = self.conversation.template
        found = template if name == "max_tokens" else template.sampling
        value: float | int | None = getattr(found, name)
        return value

    def _default(self, name: str) -> float | int | None:
        found = self._defaults if name == "max_tokens" else self._defaults.sampling
        value: float | int | None = getattr(found, name)
        return value


COMMANDS: dict[str, Command] = {
    "help": Command("", "this list", Commands.help),
    "system": Command("[TEXT]", "show or change the system prompt; - for none", Commands.system),
    "clear": Command("", "begin a new conversation", Commands.clear),
    "undo": Command("", "take back the last answer, /clear or /load", Commands.undo),
    "retry": Command("", "ask the last question again", Commands.retry),
    "edit": Command("", "change the last question and ask it again", Commands.edit),
    "save": Command("FILE", "save the conversation, as JSON", Commands.save),
    "load": Command("FILE", "go on with a saved conversation", Commands.load),
    "export": Command("FILE.md", "write the conversation as Markdown", Commands.export),
    "set": Command("[NAME VALUE]", "show or change how answers are made", Commands.set),
    "reasoning": Command("[on|off]", "show or hide what the model thinks", Commands.reasoning),
    "stats": Command("", "tokens, speed, time to first token, context", Commands.stats),
    "model": Command("[NAME]", "show the pack's models, or take another", Commands.model),
    "quit": Command("", "leave, as Ctrl-D does", Commands.quit),
}
"""Every command; docs/chat.md's table is checked against it."""

KEYS = (
    "Enter sends. Alt-Enter, or \\ at the end of a line, begins a new line.",
    "Ctrl-C stops an answer or empties the line. Ctrl-D leaves.",
    "Up and down bring back what was typed before; Ctrl-R searches it.",
)
"""What the keys do, for `/help`."""


def _number(name: str, text: str) -> float | int:
    setting = SETTINGS[name]
    try:
        value = int(text) if setting.kind is int else float(text)
    except ValueError:
        kind = "a whole number" if setting.kind is int else "a number"
        raise RecipeError(f"{name} must be {kind}, not {text!r}") from None
    checked: float | int = check_value(name, value, setting, "/set")
    return checked


def _shown(value: float | None) -> str:
    return "open" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _count(exchanges: int) -> str:
    if exchanges == 1:
        return "1 question with its answer"
    return f"{exchanges} questions with their answers"


def _brief(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:57]}..."
