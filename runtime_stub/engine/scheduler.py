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
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from runtime_stub.engine.answer import Answer
from runtime_stub.engine.aside import line_up, put_aside
from runtime_stub.engine.candidates import Candidates
from runtime_stub.engine.context import NO_ROOM, Context
from runtime_stub.engine.endings import Endings
from runtime_stub.engine.guessing import Guessing, Wish
from runtime_stub.engine.job import Job
from runtime_stub.engine.messages import (
    Begun,
    Failed,
    Finished,
    Mix,
    PromptRead,
    TokenLogprob,
    Usage,
)
from runtime_stub.engine.model import Model
from runtime_stub.engine.pace import Pace
from runtime_stub.engine.sampler import DeadEndError, Odds, Sampler
from runtime_stub.engine.slots import Slot, place
from runtime_stub.engine.turns import Turns
from runtime_stub.engine.warm import Remembered
from runtime_stub.errors import PromptError

if TYPE_CHECKING:
    from runtime_stub.engine.draft_model import DraftModel
    from runtime_stub.engine.prompt_cache import PromptCache

_FIRST_CHUNK = 32
"""Tokens that are read in the first step after a rest."""
_DEAD_END = Failed("prompt", "the grammar allows nothing to follow", "Change the grammar")


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
        self._warm = warm
        self._model = model
        self._context = context
        self._slots = [Slot(sequence) for sequence in range(parallel)]
        self._busy: list[Slot] = []
        """Those that work on a choice. While a step runs, some of them may have just ended it."""
        self._waiting: deque[Job] = deque()
        self._candidates = Candidates(model.vocabulary_size)
        self._pace = Pace()
        self._turns = Turns(apply)
        self._endings = Endings(self._slots)
        self._guessing: Guessing | None = None
        if drafts and context.forgiving:
            self._guessing = Guessing(self._pace, draft_model)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not (self._waiting or self._busy)

    def add(self, job: Job) -> None:
        """Take a request in; it starts as soon as there are slots for its choices."""
        limit = self._context.size.tokens
        if len(job.tokens) >= limit:
            job.send(
                Failed(
                    "too-long",
                    f"the prompt has {len(job.tokens):,} tokens and the context holds {limit:,}",
                    "Shorten it, or start with a larger --context",
                )
            )
        elif not 0 < job.generation.choices <= len(self._slots):
            job.send(
                Failed(
                    "unsupported",
                    f"{job.generation.choices} choices were asked for; "
                    f"from 1 to {len(self._slots)} are possible",
                    "Start with a larger --parallel",
                )
            )
        else:
            self._waiting.append(job)

    def step(self) -> None:
        """Advance every running request by one batch."""
        self._drop_abandoned()
        rested = not self._busy
        if self._waiting:
            self._admit()
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
            self._sample_all()
            self._pace.note(generated, read, time.monotonic() - started, guessed)
        self._note_busy()

    def fail_all(self, event: Failed) -> None:
        """End everything that runs or waits with `event`, and forget all cached tokens."""
        for job in [*self._waiting, *self._running()]:
            job.send(event)
        self._waiting.clear()
        self._endings.forget()
        for slot in self._slots:
            slot.release()
            self._empty(slot)
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

    def _note_busy(self) -> None:
        self._busy = [slot for slot in self._busy if slot.job is not None]

    def _running(self) -> list[Job]:
        return list(dict.fromkeys(slot.job for slot in self._slots if slot.job is not None))

    def _drop_abandoned(self) -> None:
        now = time.monotonic()
        for slot in self._busy:
            if slot.job is not None and (slot.job.cancelled or now > slot.job.deadline):
                self._drop(slot.job)
        for job in list(self._waiting) if self._waiting else ():
            if job.cancelled or now > job.deadline:
                self._waiting.remove(job)
                usage = Usage(len(job.tokens), 0, 0, 0.0, 0.0)
                job.send(
                    Finished("cancelled", usage)
                    if job.cancelled
                    else Failed("timeout", "the request waited too long for its turn")
                )

    def _drop(self, job: Job) -> None:
        if job.cancelled:
            for slot in self._endings.slots_of(job):
                self._endings.end(slot, "cancelled")
        else:
            self._endings.fail(job, Failed("timeout", "the request took too long"))
        self._note_busy()

    def _admit(self) -> None:
        while self._waiting:
            job = self._waiting[0]
            free = sum(slot.job is None for slot in self._slots)
            if free < job.generation.choices:
                return
            needed = len(job.tokens) + job.generation.choices
            if self._context.size.tokens < self._held() + needed:
                return  # it would only push out one of those that run
            self._waiting.popleft()
            is_alone = not self._busy
            try:
                self._start(job, is_alone=is_alone)
            except PromptError as error:
                self._endings.fail(job, Failed("prompt", error.message, error.hint))
            self._busy = [slot for slot in self._slots if slot.job is not None]

    def _held(self) -> int:
        """Tokens of context that running requests hold or are about to, at most."""
        return sum(
            max(len(slot.tokens), len(slot.job.tokens)) + 1
            for slot in self._busy
            if slot.job is not None
        )

    def _start(self, job: Job, *, is_alone: bool) -> None:
        request, slots, context = job.generation, self._slots, self._context
        first = place(
            slots,
            job.tokens,
            context,
            job.mix,
            self._warm,
            lambda needed: put_aside(slots, context, needed),
        )
        others = [slot for slot in slots if slot.job is None and slot is not first]
        others.sort(key=lambda slot: (bool(slot.tokens), slot.last_used))
        chosen = [first, *others[: request.choices - 1]]
        for slot in chosen[1:]:
            self._empty(slot)
        put_aside(slots, context, first)
        if is_alone:
            line_up(first, slots, context)
        kept = len(first.tokens)
        for choice, slot in enumerate(chosen):
            sampler = Sampler(
                request.sampling,
                self._model,
                grammar=job.grammar,
                logprobs=request.logprobs,
                seed_offset=choice,
                longest=self._context.size.tokens,
            )
            sampler.read(job.tokens)
            slot.mix = job.mix
            slot.take(job, choice, sampler, Answer(choice, job.reading, request.stop))
            # The last token of an answer is not fed.
            slot.most = self._context.size.tokens - len(job.tokens)
            if request.max_tokens is not None:
                slot.most = min(slot.most, request.max_tokens)
            slot.cached = kept
        job.send(Begun(tuple(slot.sequence for slot in self._endings.slots_of(job))))

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
        room = min(self._context.room, tokens - self._held()) // len(writers) - 1
        wishes = []
        for slot in writers:
            wishes.append(Wish(slot, min(slot.most - slot.generated - 1, room)))
        self._guessing.guess(wishes, len(writers) - 1)

    def _feed(self, slot: Slot, token: int, *, output: bool, choice: int = 0) -> int:
        position = len(slot.tokens) + len(slot.pending)
        slot.pending.append(token)
        return self._context.add(token, position, slot.sequence, output=output, choice=choice)

    def _sample_all(self) -> None:
        for slot in self._busy:
            slot.tokens += slot.pending
            slot.pending.clear()
            if slot.next_token is None and slot.places.wants(len(slot.tokens)):
                slot.places.add(len(slot.tokens), self._context.save(slot.sequence))
        for slot in self._busy:
            if slot.job is None or slot.output_index is None:
                continue
            if slot.next_token is None:
                if slot.choice == 0:
                    slot.job.send(PromptRead(len(slot.job.tokens), slot.cached))
                self._share_prompt(slot, slot.output_index)
            elif slot.guess:
                self._verify(slot, slot.output_index, slot.guess)
            else:
                self._sample(slot, slot.output_index)

    def _verify(self, slot: Slot, index: int, guess: Sequence[int]) -> None:
        """Sample, and go on for as long as that is what was guessed."""
        right = 0
        del slot.tokens[-len(guess) :]
        for ahead, token in enumerate([*guess, None]):
            self._sample(slot, index + ahead)
            if slot.job is None or slot.next_token != token or token is None:
                break
            # It lies in the context already.
            slot.tokens.append(token)
            right += 1
        if self._guessing is not None:
            self._guessing.learn(slot, len(guess), right)
        if right < len(guess):
            self._context.keep(slot.sequence, len(slot.tokens))

    def _share_prompt(self, first: Slot, index: int) -> None:
        """The prompt has been read: all choices of the job start from its last logits."""
        job = first.job
        if job is None:
            return
        ready = [first]
        for slot in self._endings.slots_of(job) if first.choice == 0 else ():
            if not slot.waits:
                continue
            slot.waits = False
            kept = self._context.share(first.sequence, slot.sequence, len(job.tokens))
            slot.tokens = job.tokens[:kept]
            slot.places = first.places.up_to(kept)
            if kept == len(job.tokens):
                ready.append(slot)
            # Otherwise its memory can't be shared, and it reads for itself.
        for slot in ready:
            self._sample(slot, index)

    def _sample(self, slot: Slot, index: int) -> None:
        if slot.job is None or slot.sampler is None:
            return
        if slot.first_token == 0:
            slot.first_token = time.monotonic()
        token = self._context.chosen(index)
        if token is None:
            try:
                token = slot.sampler.sample(self._context.handle, index, self._candidates)
            except DeadEndError:
                self._endings.fail(slot.job, _DEAD_END)
                return
        slot.next_token = token
        if self._guessing is not None:
            self._guessing.note(slot, token)
        self._take(slot, slot.job, token, slot.sampler.odds)

    def _take(self, slot: Slot, job: Job, token: int, odds: Odds | None) -> None:
        """Pass a sampled token on, and see whether it was the last."""
        if slot.answer is None:
            return
        shown = job.reading.shown.get(token)
        ends = self._model.ends_generation(token) or token in job.reading.ends
        if ends and shown is None:
            self._endings.end(slot, "stop")
            return
        slot.generated += 1
        data = self._model.piece(token) if shown is None else shown
        for event in slot.answer.feed(data, self._logprob(odds, data) if odds else None):
            job.send(event)
        if ends or slot.answer.over:
            self._endings.end(slot, "stop")
        elif slot.generated >= slot.most:
            self._endings.end(slot, "length")

    def _logprob(self, odds: Odds, data: bytes) -> TokenLogprob:
        top = ((self._model.piece(token, special=True), value) for token, value in odds.top)
        return TokenLogprob(
            data.decode(errors="replace"),
            data,
            odds.logprob,
            tuple((raw.decode(errors="replace"), raw, value) for raw, value in top),
        )

    def _make_room(self) -> None:
        """The cache is full: forget an idle slot, or else end the longest choice."""
        idle = [s for s in self._slots if s.job is None and s.tokens and not s.aside]
        if idle:
            self._empty(min(idle, key=lambda slot: slot.last_used))
            return
        busy = [slot for slot in self._slots if slot.job is not None and not slot.waits]
        self._endings.end(max(busy, key=lambda slot: len(slot.tokens)), "length")

    def _empty(self, slot: Slot) -> None:
        self._context.keep(slot.sequence, 0)
        slot.forget()
