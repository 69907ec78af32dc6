"""The line editor of a terminal that can be drawn to, on prompt_toolkit."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from prompt_toolkit.application import get_app
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.filters import Condition, completion_is_selected
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import History
from prompt_toolkit.input.typeahead import store_typeahead
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.output.color_depth import ColorDepth
from prompt_toolkit.shortcuts import PromptSession
from prompt_toolkit.styles import Style

from runtime_stub.chat.completion import ChatCompleter, is_command
from runtime_stub.chat.history import HistoryFile
from runtime_stub.chat.look import Look
from runtime_stub.chat.terminal import Terminal
from runtime_stub.errors import OutputError, SatchelError

_LEAVE_HINT = "Ctrl-D, or /quit, leaves"


class Editor:
    """Reads what a person types, with history, completion and several lines."""

    def __init__(
        self,
        terminal: Terminal,
        *,
        prompt: str,
        look: Look,
        history: HistoryFile | None,
        models: Callable[[], Sequence[str]],
        state: Callable[[], str],
        on_trouble: Callable[[str], None],
    ) -> None:
        """`state` is shown at the right end of the line while it is not empty. `on_trouble` is
        told, once, when the history can't be kept."""
        self._prompt = prompt
        self._look = look
        self._remark = ""
        """What an empty line shows instead of the usual."""
        self._state = state
        self._input, self._output = _streams(terminal)
        self._session: PromptSession[str] = PromptSession(
            [("class:prompt", prompt)],
            input=self._input,
            output=self._output,
            multiline=True,
            prompt_continuation=" " * len(prompt),
            rprompt=self._right,
            placeholder=self._hint,
            history=_History(history, on_trouble),
            completer=ChatCompleter(models, look.starters),
            complete_while_typing=Condition(_types_command),
            key_bindings=self._bindings(),
            enable_suspend=True,
            reserve_space_for_menu=6,
            color_depth=None if terminal.colour else ColorDepth.DEPTH_1_BIT,
            style=_style(terminal, look),
            include_default_pygments_style=False,
        )

    def type_ahead(self, characters: list[str]) -> None:
        """Have `characters`, typed before there was an editor, be typed into it first."""
        parser = getattr(self._input, "vt100_parser", None)
        if parser is not None and characters:
            # The input's own, which goes on with a paste that is not over yet.
            parser.feed("".join(characters))
            store_typeahead(self._input, self._input.read_keys())

    def read(self, default: str = "") -> str | None:
        """What was typed; None when the input has ended.

        Raises what `fail` was given meanwhile.
        """
        self._remark = ""
        try:
            return self._session.prompt(default=default)
        except EOFError:
            return None

    def redraw(self) -> None:
        """Draw the state anew, from any thread."""
        self._session.app.invalidate()

    def fail(self, error: SatchelError) -> None:
        """Have a `read` that goes on raise `error`, from any thread."""
        app = self._session.app
        if app.is_running and app.loop is not None:
            app.loop.call_soon_threadsafe(lambda: app.is_done or app.exit(exception=error))

    def _right(self) -> StyleAndTextTuples:
        state = self._state()
        # Never in the way of what is typed, and not left behind.
        if not state or get_app().is_done or "\n" in get_app().current_buffer.text:
            return []
        return [("class:state", state)]

    def _hint(self) -> StyleAndTextTuples:
        if get_app().is_done:
            return []
        usual = self._look.placeholder(self._output.get_size().columns)
        return [("class:hint", self._remark or usual)]

    def _bindings(self) -> KeyBindings:
        bindings = KeyBindings()

        @bindings.add("enter", filter=~completion_is_selected)
        @bindings.add("c-j", filter=~completion_is_selected)
        def _send(event: KeyPressEvent) -> None:
            buffer = event.current_buffer
            before = buffer.document.text_before_cursor
            if before.endswith("\\") and not buffer.document.text_after_cursor:
                buffer.delete_before_cursor()
                buffer.insert_text("\n")
            else:
                buffer.validate_and_handle()

        @bindings.add("enter", filter=completion_is_selected)
        def _choose(event: KeyPressEvent) -> None:
            event.current_buffer.complete_state = None

        @bindings.add("escape", "enter")
        @bindings.add("escape", "c-j")
        def _new_line(event: KeyPressEvent) -> None:
            event.current_buffer.insert_text("\n")

        @bindings.add("c-c")
        def _empty(event: KeyPressEvent) -> None:
            buffer: Buffer = event.current_buffer
            if not buffer.text:
                self._remark = _LEAVE_HINT
            buffer.reset()

        @bindings.add("c-d", filter=Condition(_is_empty))
        def _leave(event: KeyPressEvent) -> None:
            event.app.exit(exception=EOFError)

        @bindings.add(Keys.SIGINT)
        def _interrupt(event: KeyPressEvent) -> None:
            _empty(event)

        return bindings


class _History(History):
    """The history file, as prompt_toolkit wants it."""

    def __init__(self, file: HistoryFile | None, on_trouble: Callable[[str], None]) -> None:
        super().__init__()
        self._file = file
        self._on_trouble = on_trouble

    def load_history_strings(self) -> Iterable[str]:
        if self._file is None:
            return []
        try:
            return reversed(self._file.load())
        except OutputError as error:
            self._give_up(error)
            return []

    def store_string(self, string: str) -> None:
        # A line that begins with a space is not for keeping, as in a shell.
        if self._file is None or string.startswith(" ") or not string.strip():
            return
        try:
            self._file.add(string)
        except OutputError as error:
            self._give_up(error)

    def _give_up(self, error: OutputError) -> None:
        self._file = None
        self._on_trouble(str(error))


def _is_empty() -> bool:
    return not get_app().current_buffer.text


def _types_command() -> bool:
    return is_command(get_app().current_buffer.text)


def _streams(terminal: Terminal) -> tuple[Any, Any]:
    """Input and output for prompt_toolkit."""
    if os.name == "nt":
        from prompt_toolkit.input.defaults import create_input
        from prompt_toolkit.output.defaults import create_output

        return create_input(), create_output()
    from prompt_toolkit.input.vt100 import Vt100Input
    from prompt_toolkit.output.vt100 import Vt100_Output

    class _Output(Vt100_Output):
        def disable_bracketed_paste(self) -> None:
            """Not between two questions: `Keyboard` does it at the end."""

    def size() -> Any:
        from prompt_toolkit.data_structures import Size

        from runtime_stub.chat.terminal import size_of

        found = size_of(sys.stdout)
        return Size(rows=found.lines, columns=found.columns)

    # It would be asked where its cursor is, and some that don't know how to answer print that.
    output = _Output(sys.stdout, size, term=terminal.name, enable_bell=False, enable_cpr=False)
    return Vt100Input(sys.stdin), output


def _style(terminal: Terminal, look: Look) -> Style:
    if not terminal.colour:
        return Style.from_dict({"prompt": "bold"})
    return Style.from_dict({**_STYLE, "prompt": f"bold {look.accent}".strip()})


_STYLE = {
    "hint": "fg:ansibrightblack",
    "state": "fg:ansibrightblack",
    "completion-menu": "bg:default fg:default noreverse",
    "completion-menu.completion": "bg:default fg:default",
    "completion-menu.completion.current": "reverse",
    "completion-menu.meta.completion": "bg:default fg:ansibrightblack",
    "completion-menu.meta.completion.current": "bg:default fg:ansibrightblack",
    "scrollbar.background": "bg:default",
    "scrollbar.button": "bg:ansibrightblack",
}
