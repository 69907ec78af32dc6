"""The chat itself: a line in, an answer out, whatever the face looks like."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Protocol

from runtime_stub.chat.commands import Commands, Outcome
from runtime_stub.chat.conversation import NEARLY_FULL, Conversation
from runtime_stub.engine.messages import Event, Failed, Finished, PromptRead
from runtime_stub.errors import (
    EngineError,
    PackChangedError,
    PromptError,
    SatchelError,
)

_ERRORS: dict[str, type[SatchelError]] = {
    "prompt": PromptError,
    "too-long": PromptError,
    "changed": PackChangedError,
}


class Face(Protocol):
    """What the loop needs of whoever sits in front of it."""

    def read(self, default: str = "") -> str | None:
        """What was typed, with `default` to begin with; None when there will be no more."""

    def begin(self) -> None:
        """An answer was asked for, and its events follow."""

    def show(self, event: Event) -> None:
        """Show an event of the answer."""

    def end(self, *, stopped: bool) -> None:
        """The answer is over, or was stopped."""

    def notice(self, text: str) -> None:
        """Tell something that is not part of the answer."""

    def listing(self, lines: list[str]) -> None:
        """Show what was asked for by a command."""

    def lent(self) -> contextlib.AbstractContextManager[None]:
        """Meanwhile another program has the terminal."""


class Chat:
    """One chat: reads, asks, shows, until the input ends."""

    def __init__(self, conversation: Conversation, commands: Commands, face: Face) -> None:
        self._conversation = conversation
        self._commands = commands
        self._face = face
        self._told_fallback = False
        self._told_forgotten = 0
        self._told_nearly_full = False

    def run(self) -> None:
        """Converse until the input ends. Ctrl-C stops an answer; while a line is read it does
        what the face makes of it.

        Raises SatchelError when there is no engine any more, and nothing to be lost with it.
        """
        while (line := self._read()) is not None:
            if not line.strip():
                continue
            try:
                outcome = self._commands.run(line.strip())
            except SatchelError as error:
                self._face.notice(str(error))
                continue
            if outcome is None:
                outcome = Outcome(ask=line)
            if outcome.leave or not self._carry_out(outcome):
                return

    def _read(self) -> str | None:
        try:
            return self._face.read()
        except SatchelError as error:  # the model can't be loaded: that is known by now
            if not self._conversation.exchanges:
                raise
            self._lose(error)
            return ""

    def _carry_out(self, outcome: Outcome) -> bool:
        """Do what a command, or a question, asks for; False when the input has ended."""
        if outcome.notice:
            self._face.notice(outcome.notice)
        if outcome.lines:
            self._face.listing(list(outcome.lines))
        question = outcome.ask
        if outcome.edit is not None and self._commands.files.edits:
            question = self._edited(outcome.edit)
        elif outcome.edit is not None:
            question = self._face.read(outcome.edit)
            if question is None:
                return False
        if question is not None and question.strip():
            self._answer(question, again=outcome.again)
        return True

    def _edited(self, question: str) -> str:
        """A question as it comes out of the person's own editor; empty when it is not to be
        asked."""
        try:
            with self._face.lent():
                edited = self._commands.files.edit(f"{question}\n").rstrip()
        except SatchelError as error:
            self._face.notice(str(error))
            return ""
        if not edited:
            self._face.notice("Nothing is left of the question: it is not asked")
        elif edited == question.rstrip():
            self._face.notice("The question is as it was. /retry asks it again")
            return ""
        else:
            self._face.listing([f"> {line}".expandtabs(4) for line in edited.splitlines()])
        return edited

    def _answer(self, question: str, *, again: bool) -> None:
        conversation, face = self._conversation, self._face
        failed: Failed | None = None
        finished: Finished | None = None
        stopped = False
        with _stopping(conversation):
            face.begin()
            with contextlib.closing(conversation.say(question, again=again)) as events:
                for event in events:
                    if isinstance(event, Failed):
                        failed = event
                    elif isinstance(event, Finished):
                        finished = event
                        stopped = event.reason == "cancelled"
                    face.show(event)
                    if isinstance(event, PromptRead):
                        self._tell_fallback()
            face.end(stopped=stopped)
        if failed is not None:
            self._fail(failed)
        elif finished is not None:
            self._tell_limits(finished)

    def _fail(self, failed: Failed) -> None:
        error = _ERRORS.get(failed.kind, EngineError)(failed.message, failed.hint)
        lost = self._conversation.engine.status.state in ("failed", "closed")
        if not lost:
            self._face.notice(str(error))
        elif not self._conversation.exchanges:
            raise error
        else:
            self._lose(error)

    def _lose(self, error: SatchelError) -> None:
        """There is no engine any more, but a conversation."""
        self._face.notice(str(error))
        another = (
            ", /model NAME takes another model" if len(self._commands.models.names) > 1 else ""
        )
        self._face.notice(f"Nothing can be asked now. /save FILE keeps the conversation{another}")

    def _tell_fallback(self) -> None:
        facts = self._conversation.engine.facts
        if not self._told_fallback and facts is not None and facts.template.startswith("fallback"):
            name = facts.template.partition(" ")[2]
            self._face.notice(f"The model came without a chat template; {name} is used")
        self._told_fallback = True

    def _tell_limits(self, finished: Finished) -> None:
        """Say what was cut or left out, and what soon will be."""
        conversation = self._conversation
        context, used = conversation.context, 0
        if finished.usage.prompt_tokens:
            used = finished.usage.prompt_tokens + finished.usage.completion_tokens
        if finished.reason == "length":
            limit = conversation.template.max_tokens
            if limit is not None and finished.usage.completion_tokens >= limit:
                self._face.notice(
                    f"The answer was cut at its limit of {limit:,} tokens: /set max_tokens NUMBER"
                )
            else:
                self._face.notice("The answer was cut because the context is full")
        if conversation.forgotten > self._told_forgotten:
            count = conversation.forgotten
            what = "question and answer is" if count == 1 else f"{count} questions and answers are"
            self._face.notice(
                f"The context was full: the oldest {what} no longer read. "
                "/save and /export still have all"
            )
            self._told_nearly_full = False
        elif context and used > NEARLY_FULL * context and not self._told_nearly_full:
            self._face.notice(
                f"The context is {used / context:.0%} full ({used:,} of {context:,} tokens). "
                "Soon the oldest questions and answers will be left out; /clear begins anew"
            )
            self._told_nearly_full = True
        elif context and used <= NEARLY_FULL * context:
            self._told_nearly_full = False
        self._told_forgotten = conversation.forgotten


@contextlib.contextmanager
def _stopping(conversation: Conversation) -> Iterator[None]:
    """Have Ctrl-C stop the answer, and nothing else."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, lambda *_: conversation.stop())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
