"""Puts a chat together: for a terminal that can be drawn to, or a plain one, or a pipe.

On a terminal the prompt is there before anything that takes long:

    this thread    prompt, shows what is typed ──> editor takes over ──> the chat
    importer       prompt_toolkit ──────────────┘  then rich
    maker          extracts the model, if need be, and makes the engine, which loads it
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable

from runtime_stub.chat.commands import Commands
from runtime_stub.chat.conversation import Conversation
from runtime_stub.chat.files import Files
from runtime_stub.chat.history import HistoryFile
from runtime_stub.chat.keyboard import Keyboard, show_early_prompt
from runtime_stub.chat.look import Look
from runtime_stub.chat.loop import Chat, Face
from runtime_stub.chat.pack_models import PackModels
from runtime_stub.chat.plain import PlainFace
from runtime_stub.chat.terminal import Terminal, size_of
from runtime_stub.confinement.broker import Broker
from runtime_stub.errors import SatchelError

PROMPT = "> "
_LOOK = 0.2


def run_chat(
    terminal: Terminal,
    models: PackModels,
    look: Look,
    broker: Broker | None,
    history: HistoryFile | None,
    *,
    shows_reasoning: bool,
    edits: bool,
) -> None:
    """Converse until the person leaves or the input ends. Raises SatchelError.

    With `edits`, the broker starts the person's own editor.
    """
    prepared = models.prepared
    conversation = Conversation(models.engine, prepared.system, prepared.request, pack=look.name)
    commands = Commands(conversation, models, Files(broker, edits=edits))
    commands.shows_reasoning = shows_reasoning
    if not terminal.reads:
        Chat(conversation, commands, PlainFace(terminal, commands, None)).run()
        return
    rich = terminal.rich
    keyboard = Keyboard(sys.stdin, sys.stdout, marks_paste=rich, encoding=terminal.encoding)
    with keyboard:
        if rich:
            face: Face = _screen(terminal, models, commands, look, keyboard, history)
        else:
            face = PlainFace(terminal, commands, keyboard)
            face.notice(f"{look.name}: /help lists commands, Ctrl-C stops an answer, /quit leaves")
            face.listing([*look.greeting.splitlines(), *look.starters])
        Chat(conversation, commands, face).run()


def _screen(
    terminal: Terminal,
    models: PackModels,
    commands: Commands,
    look: Look,
    keyboard: Keyboard,
    history: HistoryFile | None,
) -> Face:
    """The face on a terminal that can be drawn to. Its prompt is shown at once."""
    wake, waker = os.pipe()
    failure: list[BaseException] = []

    def load() -> None:
        try:
            import runtime_stub.chat.editor
            import runtime_stub.chat.screen
        except BaseException as error:  # noqa: BLE001  (raised where it can be told)
            failure.append(error)
        os.write(waker, b"\0")
        with contextlib.suppress(ImportError):
            import runtime_stub.chat.answering  # noqa: F401

    columns = size_of(sys.stdout).columns
    heading = look.heading(terminal, columns - 1)
    sys.stdout.write("".join(f"{line}\r\n" for line in heading))
    threading.Thread(target=load, name="importer", daemon=True).start()
    try:
        typed = show_early_prompt(keyboard, PROMPT, columns, wake)
    finally:
        os.close(wake)
    if failure:
        raise failure[0]

    from runtime_stub.chat.editor import Editor
    from runtime_stub.chat.screen import Screen, loading_state

    troubles: list[str] = []
    editor = Editor(
        terminal,
        prompt=PROMPT,
        look=look,
        history=history,
        models=lambda: models.names,
        state=lambda: loading_state(models.engine),
        on_trouble=troubles.append,
    )
    editor.type_ahead(typed)
    _watch(models, editor.redraw, editor.fail)
    return Screen(sys.stdout, terminal, keyboard, editor, commands, lambda: models.engine, troubles)


def _watch(
    models: PackModels, redraw: Callable[[], None], fail: Callable[[SatchelError], None]
) -> None:
    """Keep the state of loading on the screen up to date; what goes wrong ends the waiting for
    a question that could not be answered."""

    def watch() -> None:
        while True:
            try:
                if models.engine.wait_ready(_LOOK):
                    redraw()
                    models.switched.wait()
                    models.switched.clear()
                redraw()
            except SatchelError as error:
                fail(error)
                models.switched.wait()
                models.switched.clear()

    threading.Thread(target=watch, name="watcher", daemon=True).start()
