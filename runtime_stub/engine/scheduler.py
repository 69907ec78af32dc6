"""Works on several requests at once in one context: the loop that feeds the model.

Each step builds one batch out of the next token of every choice that is being answered and
as much of the unread prompts as fits beside them, runs it, and samples. A choice holds a slot
(a sequence of the context); a slot keeps its tokens afterwards, so that the next turn of the
same chat reads only what is new.

What is done in every step looks at as few objects as possible: while the model computes, its
weights push everything else out of the processor's caches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from runtime_stub.engine.aside import make_room
from runtime_stub.engine.context import NO_ROOM, Context
from runtime_stub.engine.endings import Endings
from runtime_stub.engine.guessing import Guessing, Wish
from runtime_stub.engine.job import Job
from runtime_stub.engine.messages import Failed, Mix
from runtime_stub.engine.model import Model
from runtime_stub.engine.next_tokens import NextTokens
from runtime_stub.engine.pace import Pace
from runtime_stub.engine.slots import Slot
from runtime_stub.engine.turns import Turns
from runtime_stub.engine.waiting import Waiting, promised
from runtime_stub.engine.warm import Remembered

if TYPE_CHECKING:
    from runtime_stub.engine.draft_model import DraftModel
    from runtime_stub.engine.prompt_cache import PromptCache

_FIRST_CHUNK = 32
"""Tokens that are read in the first step after a rest."""


class Scheduler:
    """Owns context and slots. All methods belong to the thread that owns the context."""

    def __init__(
        self,
        model: Model,
        context: Context,
        parallel: int,
        apply: Callable[[Mix], None] = lambda _: None,
        warm: Sequence[Remembered] = (),
        drafts: bool = False,
        draft_model: DraftModel | None = None,
    ) -> None:
        """`apply` lets the context compute with other adapters; `warm` are prompts that need
        not be read. With `drafts`, it guesses ahead where that pays, also by `draft_model`."""
        self._context = context
        self._slots = [Slot(sequence) for sequence in range(parallel)]
        self._busy: list[Slot] = []
        """Those that work on a choice. While a step runs, some of them may have just ended it."""
        self._pace = Pace()
        self._turns = Turns(apply)
        self._endings = Endings(self._slots)
        self._guessing: Guessing | None = None
        if drafts and context.forgiving:
            self._guessing = Guessing(self._pace, draft_model)
        self._waiting = Waiting(model, context, self._slots, self._endings, warm)
        self._next_tokens = NextTokens(model, context, self._endings, self._guessing)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not (self._waiting or self._busy)

    def add(self, job: Job) -> None:
        """Take a request in; it starts as soon as there are slots for its choices."""
        self._waiting.add(job)

    def step(self) -> None:
        """Advance every running request by one batch."""
        self._drop_abandoned()
        rested = not self._busy
        if self._waiting:
            self._waiting.admit()
            self._note_busy(self._slots)
        generated, guessed, read = self._fill_batch(rested=rested)
        if generated + read == 0:
            return
        started = time.monotonic()
        result = self._context.decode()
        if result == NO_ROOM:
            self._make_room()
        elif result != 0:
            self.fail_all(Failed("engine", f"llama.cpp failed to decode (code {result})"))
        else:
            self._next_tokens.find(self._busy)
            self._pace.note(generated, read, time.monotonic() - started, guessed)
        self._note_busy(self._busy)

    def fail_all(self, event: Failed) -> None:
        """End everything that runs or waits with `event`, and forget all cached tokens."""
        running = dict.fromkeys(slot.job for slot in self._slots if slot.job is not None)
        for job in [*self._waiting.take_all(), *running]:
            job.send(event)
        self._endings.forget()
        for slot in self._slots:
            slot.release()
            slot.empty(self._context)
        self._busy = []

    def keep_prompts(self, cache: PromptCache, seconds: float | None = None) -> None:
        """Let `cache` have what idle slots hold: one state now, or all, as far as `seconds`
        allow."""
        if seconds is None:
            cache.keep(self._slots, self._context)
        else:
            cache.keep_all(self._slots, self._context, seconds)

    def close(self) -> None:
        """Release the samplers, without a word to anyone."""
        for slot in self._slots:
            slot.release()

    def _note_busy(self, slots: Sequence[Slot]) -> None:
        self._busy = [slot for slot in slots if slot.job is not None]

    def _drop_abandoned(self) -> None:
        now = time.monotonic()
        for slot in self._busy:
            if slot.job is not None and (slot.job.cancelled or now > slot.job.deadline):
                self._drop(slot.job)
        if self._waiting:
            self._waiting.drop_abandoned(now)

    def _drop(self, job: Job) -> None:
        if job.cancelled:
            for slot in self._endings.slots_of(job):
                self._endings.end(slot, "cancelled")
        else:
            self._endings.fail(job, Failed("timeout", "the request took too long"))
        self._note_busy(self._busy)

    def _fill_batch(self, *, rested: bool) -> tuple[int, int, int]:
        """How many generated, guessed and prompt tokens were put into the batch."""
        self._context.clear_batch()
        for slot in self._busy:
            slot.output_index = None
            slot.pending.clear()
            slot.guess = ()
        readers, writers = [], []
        # One batch is computed with one set of adapters.
        for slot in self._turns.next(self._busy):
            if slot.next_token is not None:
                writers.append(slot)
            elif not slot.waits:
                readers.append(slot)
        if not readers:  # the time is theirs: they wait for a first token
            self._guess(writers)
        guessed = 0
        for slot in writers:
            if slot.next_token is not None and slot.sampler is not None:
                slot.output_index = self._feed(
                    slot, slot.next_token, output=True, choice=slot.sampler.choice
                )
            # What is verified lies in the batch behind the token that it follows.
            for token in slot.guess:
                self._feed(slot, token, output=True)
                guessed += 1
        read = self._feed_readers(readers, len(writers), rested=rested) if readers else 0
        return len(writers), guessed, read

    def _feed_readers(self, readers: list[Slot], generated: int, *, rested: bool) -> int:
        """Feed pieces of prompts beside `generated` tokens of answers; how many tokens."""
        room = self._context.room
        if generated:
            room = self._pace.chunk(room, generated, len(readers))
        elif rested and len(self._slots) > 1:
            # Requests seldom come alone: those that arrive during this short step are read
            # together with the first, in one batch, and not in small pieces beside its answer.
            room = min(room, _FIRST_CHUNK)
        readers.sort(key=lambda slot: slot.started)
        read = 0
        for number, slot in enumerate(readers):
            # Those who came first go first, but nobody waits for a long prompt to end.
            share = room - read if number == len(readers) - 1 else -(-(room - read) // 2)
            read += self._feed_prompt(slot, share)
        return read

    def _feed_prompt(self, slot: Slot, room: int) -> int:
        prompt = slot.job.tokens if slot.job is not None else []
        start = len(slot.tokens)
        end = slot.places.next_wanted(start, min(len(prompt), start + room))
        for position in range(start, end):
            last = position == len(prompt) - 1
            index = self._feed(slot, prompt[position], output=last)
            if last:
                slot.output_index = index
        return end - start

    def _guess(self, writers: Sequence[Slot]) -> None:
        """Decide what may follow the next token of each, as far as that pays."""
        if self._guessing is None or not writers or not self._guessing.can_help(writers):
            return
        # Every text's own token must find its place in the batch and in the context.
        tokens = self._context.size.tokens
        room = min(self._context.room, tokens - promised(self._busy)) // len(writers) - 1
        wishes = []
        for slot in writers:
            wishes.append(Wish(slot, min(slot.most - slot.generated - 1, room)))
        self._guessing.guess(wishes, len(writers) - 1)

    def _feed(self, slot: Slot, token: int, *, output: bool, choice: int = 0) -> int:
        position = len(slot.tokens) + len(slot.pending)
        slot.pending.append(token)
        return self._context.add(token, position, slot.sequence, output=output, choice=choice)

    def _make_room(self) -> None:
        """The cache is full: an idle slot makes way, or else the longest choice ends."""
        if make_room(self._slots, self._context):
            return
        busy = [slot for slot in self._slots if slot.job is not None and not slot.waits]
        self._endings.end(max(busy, key=lambda slot: len(slot.tokens)), "length")
