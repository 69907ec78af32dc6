"""Requests that wait for slots, and how they get them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from runtime_stub.engine.answer import Answer
from runtime_stub.engine.aside import line_up, put_all_aside, put_aside
from runtime_stub.engine.context import Context
from runtime_stub.engine.endings import Endings
from runtime_stub.engine.job import Job
from runtime_stub.engine.messages import Begun, Failed, Finished, Usage
from runtime_stub.engine.model import Model
from runtime_stub.engine.sampler import Sampler
from runtime_stub.engine.slots import Slot, place
from runtime_stub.engine.warm import Remembered
from runtime_stub.errors import PromptError


class Waiting:
    """Who wants to be answered, in the order in which they came. All `slots` lie in `context`."""

    def __init__(
        self,
        model: Model,
        context: Context,
        slots: Sequence[Slot],
        endings: Endings,
        warm: Sequence[Remembered],
    ) -> None:
        """`warm` are prompts that need not be read."""
        self._model = model
        self._context = context
        self._slots = slots
        self._endings = endings
        self._warm = warm
        self._jobs: deque[Job] = deque()

    def __bool__(self) -> bool:
        return bool(self._jobs)

    def add(self, job: Job) -> None:
        """Take a request in, or tell it that it can't be answered here."""
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
            self._jobs.append(job)

    def take_all(self) -> list[Job]:
        """Those that wait; they do no longer."""
        jobs = list(self._jobs)
        self._jobs.clear()
        return jobs

    def drop_abandoned(self, now: float) -> None:
        """End those whose clients have left or whose time is over at `now`."""
        for job in list(self._jobs):
            if job.cancelled or now > job.deadline:
                self._jobs.remove(job)
                usage = Usage(len(job.tokens), 0, 0, 0.0, 0.0)
                job.send(
                    Finished("cancelled", usage)
                    if job.cancelled
                    else Failed("timeout", "the request waited too long for its turn")
                )

    def admit(self) -> None:
        """Give slots to those whose turn it is, as far as there are any."""
        while self._jobs:
            job = self._jobs[0]
            free = sum(slot.job is None for slot in self._slots)
            if free < job.generation.choices:
                return
            needed = len(job.tokens) + job.generation.choices
            if self._context.size.tokens < promised(self._slots) + needed:
                return  # it would only push out one of those that run
            self._jobs.popleft()
            try:
                self._start(job)
            except PromptError as error:
                self._endings.fail(job, Failed("prompt", error.message, error.hint))

    def _start(self, job: Job) -> None:
        chosen = self._slots_for(job)
        kept = len(chosen[0].tokens)
        request = job.generation
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

    def _slots_for(self, job: Job) -> list[Slot]:
        """One for each choice. The first holds what need not be read of the prompt, the others
        nothing."""
        slots, context = self._slots, self._context
        is_alone = all(slot.job is None for slot in slots)
        if job.generation.fresh:
            chosen = self._emptied(job.generation.choices)
            if is_alone:
                put_all_aside(slots, context)
                self._number(chosen)
            return chosen
        first = place(
            slots,
            job.tokens,
            context,
            job.mix,
            self._warm,
            lambda wanted: put_aside(slots, context, wanted, len(wanted.tokens)),
        )
        others = self._emptied(job.generation.choices - 1, first)
        put_aside(slots, context, first, len(job.tokens) - len(first.tokens))
        if is_alone:
            line_up(first, slots, context)
        return [first, *others]

    def _number(self, chosen: list[Slot]) -> None:
        """Give these slots the first sequences of a context that holds nothing, and put them in the
        order of a batch: sums can depend on both."""
        chosen.sort(key=self._slots.index)
        rest = [slot for slot in self._slots if slot not in chosen]
        for sequence, slot in enumerate([*chosen, *rest]):
            slot.sequence = sequence

    def _emptied(self, count: int, spare: Slot | None = None) -> list[Slot]:
        """So many free slots but for `spare`, those whose tokens are least likely to be wanted."""
        free = [slot for slot in self._slots if slot.job is None and slot is not spare]
        free.sort(key=lambda slot: (bool(slot.tokens), slot.last_used))
        for slot in free[:count]:
            slot.empty(self._context)
        return free[:count]


def promised(slots: Sequence[Slot]) -> int:
    """Tokens of context that running requests hold or are about to, at most."""
    return sum(
        max(len(slot.tokens), len(slot.job.tokens)) + 1 for slot in slots if slot.job is not None
    )
