"""How answers go on after a step: what is sampled, told and kept of each."""

from __future__ import annotations

import time
from collections.abc import Sequence

from runtime_stub.engine.candidates import Candidates
from runtime_stub.engine.context import Context
from runtime_stub.engine.endings import Endings
from runtime_stub.engine.guessing import Guessing
from runtime_stub.engine.job import Job
from runtime_stub.engine.messages import Failed, PromptRead, TokenLogprob
from runtime_stub.engine.model import Model
from runtime_stub.engine.sampler import DeadEndError, Odds
from runtime_stub.engine.slots import Slot

_DEAD_END = Failed("prompt", "the grammar allows nothing to follow", "Change the grammar")


class NextTokens:
    """Finds the next token of every choice in what `context` has computed."""

    def __init__(
        self, model: Model, context: Context, endings: Endings, guessing: Guessing | None
    ) -> None:
        """`guessing` learns from what comes out."""
        self._model = model
        self._context = context
        self._endings = endings
        self._guessing = guessing
        self._candidates = Candidates(model.vocabulary_size)

    def find(self, busy: Sequence[Slot]) -> None:
        """Go on with those that were in the batch. Some of them may have ended afterwards."""
        for slot in busy:
            slot.tokens += slot.pending
            slot.pending.clear()
            if slot.next_token is None and slot.places.wants(len(slot.tokens)):
                slot.places.add(len(slot.tokens), self._context.save(slot.sequence))
        for slot in busy:
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
