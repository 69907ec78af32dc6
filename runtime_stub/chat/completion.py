"""Completes commands and what follows them; on an empty line, questions to start with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document

from runtime_stub.chat.commands import COMMANDS, DEFAULT, SETTINGS

_FILES = ("save", "load", "export")


def is_command(text: str) -> bool:
    """Whether `text` is a command, or becomes one."""
    return text.startswith("/") and "\n" not in text


class ChatCompleter(Completer):
    """What can be typed next in a chat."""

    def __init__(self, models: Callable[[], Sequence[str]], starters: Sequence[str]) -> None:
        self._models = models
        self._starters = starters
        self._paths = PathCompleter(expanduser=True)

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        text = document.text_before_cursor
        if not document.text:
            yield from (Completion(starter, 0) for starter in self._starters)
        elif is_command(text):
            name, space, rest = text[1:].partition(" ")
            if space and name in _FILES:
                yield from self._paths.get_completions(Document(rest.lstrip()), complete_event)
            else:
                typed = rest.rpartition(" ")[2] if space else name
                for word, meaning in self._words(name, rest) if space else _commands():
                    if word.startswith(typed):
                        display = word if space else f"/{word}"
                        yield Completion(word, -len(typed), display=display, display_meta=meaning)

    def _words(self, name: str, rest: str) -> Iterator[tuple[str, str]]:
        """What may follow a command, of which `rest` is typed, and what it means."""
        if name == "set" and " " not in rest:
            yield from ((word, setting.help) for word, setting in SETTINGS.items())
        elif name == "set":
            yield DEFAULT, "as the pack has it"
        elif name == "reasoning":
            yield from (("on", ""), ("off", ""))
        elif name == "model":
            yield from ((model, "") for model in self._models())


def _commands() -> Iterator[tuple[str, str]]:
    return ((name, command.help) for name, command in COMMANDS.items())
